"use strict";
// Sorting and filtering; the page says the same without them.

function key(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? parseFloat(cell.dataset.value) : cell.textContent.trim();
}

function sort(table, column, sign) {
  const body = table.tBodies[0];
  const compare = (a, b) => {
    const [x, y] = [key(a, column), key(b, column)];
    if (typeof x === "string") return sign * x.localeCompare(y, "en", { numeric: true });
    // What is not a number stays at the end, whichever way the rest goes.
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y);
  };
  body.append(...[...body.rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down ? -1 : 1);
    });
  });
}

const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll("#cells tbody tr")];
  filter.parentElement.hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const table = row.closest("table");
      const text = `${table.caption.textContent} ${row.textContent}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    for (const table of document.querySelectorAll("#cells table")) {
      table.parentElement.hidden = [...table.tBodies[0].rows].every((row) => row.hidden);
    }
    document.getElementById("filter-count").textContent =
      words.length ? `${shown} of ${rows.length}` : "";
  });
}

// A link may lead into something folded; print shows everything.
function unfold(element) {
  for (; element; element = element.parentElement) {
    if (element.tagName === "DETAILS") element.open = true;
  }
}
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  unfold(target);
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", follow);
if (location.hash) follow();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
