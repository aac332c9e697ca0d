"use strict";
// Sorting, filtering and copying; the pages say the same without them.

const BLANK = /\s+/g;
const worded = (element) => element.textContent.replace(BLANK, " ").trim();
const query = new URLSearchParams(location.search);
function remember(name, value) {
  if (value) query.set(name, value);
  else query.delete(name);
  const search = query.toString();
  history.replaceState(null, "", (search ? `?${search}` : location.pathname) + location.hash);
}

function key(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? parseFloat(cell.dataset.value) : worded(cell);
}

function sort(table, column, sign) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [key(row, column), row]);
  const order = new Intl.Collator("en", { numeric: true });
  keyed.sort(([x], [y]) => {
    if (typeof x === "string") return sign * order.compare(x, y);
    // What is not a number stays at the end, whichever way the rest goes.
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y);
  });
  body.append(...keyed.map(([, row]) => row));
  table.tHead.rows[0].querySelectorAll("[aria-sort]").forEach((h) => h.removeAttribute("aria-sort"));
  const head = table.tHead.rows[0].cells[column];
  head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!worded(head)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      sort(table, column, down ? -1 : 1);
      if (table.matches(".all")) remember("sort", `${down ? "-" : ""}${column}`);
    });
  });
}

// The table of all numbers: its rows, its columns, and copies of them.
function explore(tools) {
  const table = tools.parentElement.querySelector("table.all");
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const words = rows.map((row) => worded(row).toLowerCase());
  const input = tools.querySelector("input");
  const hidden = new Set((query.get("hide") || "").split(",").filter(Boolean).map(Number));
  const sheet = document.head.appendChild(document.createElement("style"));
  tools.hidden = false;

  function filter() {
    const wanted = input.value.toLowerCase().split(BLANK).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => words[i].includes(word));
      shown += !row.hidden;
    });
    tools.querySelector(".count").textContent = `${shown} of ${rows.length}`;
  }
  function hide() {
    sheet.textContent = [...hidden]
      .map((i) => `table.all tr > :nth-child(${i + 1}) { display: none; }`)
      .join("\n");
  }

  heads.forEach((head, i) => {
    if (!i || i === heads.length - 1) return;
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(i);
    box.addEventListener("change", () => {
      hidden[box.checked ? "delete" : "add"](i);
      remember("hide", [...hidden].sort((a, b) => a - b).join(","));
      hide();
    });
    label.append(box, ` ${worded(head)}`);
    tools.querySelector(".columns").append(label, " ");
  });
  input.value = query.get("rows") || "";
  input.addEventListener("input", () => {
    remember("rows", input.value);
    filter();
  });
  const order = query.get("sort");
  if (order !== null && heads[Math.abs(Number(order))]) {
    sort(table, Math.abs(Number(order)), order.startsWith("-") ? -1 : 1);
  }
  filter();
  hide();

  function cells() {
    const kept = heads.map((_, i) => i).filter((i) => !hidden.has(i) && i < heads.length - 1);
    const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return [heads, ...shown.map((row) => row.cells)].map((r) => kept.map((i) => worded(r[i])));
  }
  const copies = {
    csv: () => cells().map((row) => row.map(field).join(",")).join("\r\n"),
    latex: () => booktabs(cells(), heads.filter((_, i) => !hidden.has(i))),
    bibtex: () => {
      const shown = new Set(rows.filter((row) => !row.hidden).map((row) => worded(row.cells[0])));
      return bibliography(shown);
    },
  };
  for (const button of tools.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = copies[button.dataset.copy]();
      await copy(text);
      const said = tools.querySelector(".copied");
      said.textContent = text ? "copied" : "nothing to copy";
      said.dataset.text = text;
    });
  }
}
const plain = (text) => text.replace(/[\u2009\u202f]/g, "").replace(/\u2212/g, "-");
const field = (text) => (/[",\n]/.test(text) ? `"${plain(text).replace(/"/g, '""')}"` : plain(text));
const ESCAPES = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const tex = (text) =>
  plain(text)
    .replace(/[\\~^&%$#_{}]/g, (c) => ESCAPES[c] || `\\${c}`)
    .replace(/</g, "\\textless{}").replace(/>/g, "\\textgreater{}")
    .replace(/\u2013/g, "--").replace(/\u2026/g, "\\ldots{}");
function booktabs([head, ...rows], heads) {
  const columns = head.map((_, i) => (heads[i].matches(".num") ? "r" : "l")).join("");
  const line = (row) => `${row.map(tex).join(" & ")} \\\\`;
  return [
    "% needs \\usepackage{booktabs}", `\\begin{tabular}{${columns}}`, "\\toprule", line(head),
    "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}", "",
  ].join("\n");
}
function bibliography(methods) {
  const all = document.getElementById("bibtex");
  if (!all) return "";
  const works = JSON.parse(all.dataset.works);
  const wanted = new Set([...methods].flatMap((method) => works[method] || []));
  const entries = all.querySelector("pre").textContent.split("\n\n");
  return entries.filter((entry) => wanted.has(entry.match(/\{(\w+),/)[1])).join("\n\n");
}
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
document.querySelectorAll(".tools").forEach(explore);

// A chart as a file of its own: the page's colours and font are written into it.
for (const chart of document.querySelectorAll(".chart > svg, .plots figure > svg, .curves svg")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "save";
  button.textContent = "SVG";
  button.setAttribute("aria-label", "Save this chart as SVG");
  button.addEventListener("click", () => {
    const style = getComputedStyle(document.documentElement);
    const drawn = new XMLSerializer().serializeToString(chart)
      .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name))
      .replace("<svg ", `<svg font-family="sans-serif" `);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([drawn], { type: "image/svg+xml" }));
    link.download = "chart.svg";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  chart.after(button);
}

// A link may lead into something folded; print shows what belongs to the page itself.
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
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open], .run, .paper, .bibtex, .long)")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
