#!/usr/bin/env bash
# The report's tests look at the page in a browser. Debian's is installed where that is possible;
# elsewhere those tests skip and say so.
set -euo pipefail
command -v chromium > /dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chromium > /dev/null
else
    echo "chromium is not installed: the browser tests will skip (Debian: apt-get install chromium)"
fi
