// The browser of single examples: search, filter, sort, page by page. Every text is set as text, never as HTML.
(() => {
  "use strict";
  const data = document.getElementById("example-data");
  if (!data) return;
  const { sets, runs, texts, rows } = JSON.parse(data.textContent);
  const PAGE = 25;
  const KINDS = { "1": "gained", "0": "same", "-1": "lost" };
  const table = document.getElementById("example-table");
  const form = document.getElementById("example-controls");
  const count = document.getElementById("example-count");
  const [before, after] = document.querySelectorAll("#examples .pages button");
  const place = document.getElementById("example-page");
  // A row: set, run, text, pair, margin of the base, margin of the policy, +1, 0 or -1.
  const columns = [
    (r) => null,
    (r) => r[3],
    (r) => sets[r[0]],
    (r) => runs[r[1]],
    (r) => r[4],
    (r) => r[5],
    (r) => (r[4] === null || r[5] === null ? null : r[5] - r[4]),
    (r) => KINDS[r[6]] ?? "unknown",
  ];
  const lower = texts.map((text) => (text ? text.join("\n").toLowerCase() : ""));
  let sorted = { column: null, ascending: false };
  let page = 0;

  function found() {
    const { search, set, run, change } = Object.fromEntries(new FormData(form));
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = rows.filter((r) => {
      if (set !== "" && r[0] !== Number(set)) return false;
      if (run !== "" && r[1] !== Number(run)) return false;
      if (change === "flipped" ? !r[6] : change !== "" && r[6] !== Number(change)) return false;
      const within = lower[r[2]] + "\n" + r[3].toLowerCase();
      return words.every((word) => within.includes(word));
    });
    if (sorted.column === null) {
      const size = (r) => Math.abs(columns[6](r) ?? 0);
      return hits.sort((a, b) => size(b) - size(a));
    }
    return window.innerpoReport.sortBy(hits, columns[sorted.column], sorted.ascending);
  }
  const signed = (x) => (x === null ? "\u2013" : (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(3));

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function textsOf(row) {
    const line = element("tr");
    const cell = line.appendChild(element("td"));
    cell.colSpan = columns.length;
    const box = cell.appendChild(element("div", undefined, "texts"));
    const parts = texts[row[2]];
    if (!parts) box.append(element("p", "The texts of this pair are not at hand; see the note above."));
    else ["Prompt", "Chosen", "Rejected"].forEach((title, i) => box.append(element("h4", title), element("p", parts[i], "text")));
    return line;
  }
  function lineOf(row, number) {
    const line = element("tr");
    const show = element("button", "Texts");
    show.type = "button";
    show.setAttribute("aria-expanded", "false");
    show.setAttribute("aria-label", `Texts of ${row[3]}`);
    let shown = null;
    show.addEventListener("click", () => {
      if (shown) { shown.remove(); shown = null; } else { shown = textsOf(row); line.after(shown); }
      show.setAttribute("aria-expanded", String(Boolean(shown)));
    });
    line.appendChild(element("td")).append(show);
    columns.slice(1).forEach((valueOf, i) => {
      const value = valueOf(row);
      const isNumber = i >= 3 && i <= 5;
      line.append(element("td", isNumber ? signed(value) : value, isNumber ? "number" : ""));
    });
    if (row[6]) line.lastChild.className = row[6] > 0 ? "rise" : "fall";
    return line;
  }
  function show() {
    const hits = found();
    const pages = Math.max(1, Math.ceil(hits.length / PAGE));
    page = Math.min(page, pages - 1);
    table.tBodies[0].replaceChildren(...hits.slice(page * PAGE, (page + 1) * PAGE).map(lineOf));
    count.textContent = `${hits.length} of ${rows.length} rows`;
    place.textContent = `page ${page + 1} of ${pages}`;
    before.disabled = page === 0;
    after.disabled = page >= pages - 1;
  }
  document.getElementById("example-browser").hidden = false;
  window.innerpoReport.sortableHeaders(table, (column, ascending) => {
    sorted = { column, ascending };
    page = 0;
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { page = 0; show(); });
  before.addEventListener("click", () => { page -= 1; show(); });
  after.addEventListener("click", () => { page += 1; show(); });
  show();
})();
