// The live parts of the page: theme, charts, sortable tables. No text of a data set is ever read as HTML.
(() => {
  "use strict";
  const root = document.documentElement;

  // -- light and dark
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => button && button.setAttribute("aria-pressed", String(isDark()));
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("innerpo-theme", root.dataset.theme); } catch { /* as above */ }
      showTheme();
    });
    system.addEventListener("change", showTheme);
    showTheme();
  }

  // -- charts: the drawing that came with the page stays until the live one is ready. The expressions of a chart are
  // interpreted (ast), not evaluated, so that the page's policy can forbid eval.
  async function draw(plot) {
    const spec = JSON.parse(plot.querySelector("script").textContent);
    const still = plot.querySelector(".drawing");
    const live = document.createElement("div");
    live.className = "drawing live";
    live.setAttribute("aria-hidden", "true"); // the label of the plot and the table beneath say the same in words
    still.after(live);
    await window.vegaEmbed(live, spec, { actions: false, ast: true, renderer: "svg" });
    still.remove();
    plot.dataset.live = "yes";
  }
  function drawWhenSeen(within) {
    if (!window.vegaEmbed) return;
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          draw(entry.target);
        }
      }
    }, { rootMargin: "300px" });
    within.querySelectorAll(".plot:not([data-live])").forEach((plot) => seen.observe(plot));
  }

  // -- tables: a header is a button that sorts by its column; unknown values stay at the end
  function compare(a, b, ascending) {
    const [x, y] = ascending ? [a, b] : [b, a];
    return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
  }
  function sortBy(items, valueOf, ascending) {
    const unknown = (v) => v === null || v === "" || Number.isNaN(v);
    const keyed = items.map((item) => [valueOf(item), item]);
    const known = keyed.filter(([v]) => !unknown(v)).sort(([a], [b]) => compare(a, b, ascending));
    return [...known, ...keyed.filter(([v]) => unknown(v))].map(([, item]) => item);
  }
  // Puts a button into every header; calls back with (column, ascending).
  function sortableHeaders(table, onSort) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      if (header.dataset.fixed !== undefined) return;
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.textContent = header.firstChild.textContent.trim();
      header.replaceChildren(sorter, ...header.querySelectorAll(".mark"));
      sorter.addEventListener("click", () => {
        const ascending = header.getAttribute("aria-sort") !== "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        onSort(column, ascending);
      });
    });
  }
  function makeSortable(table) {
    table.dataset.ready = "yes";
    sortableHeaders(table, (column, ascending) => {
      const body = table.tBodies[0];
      const valueOf = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : parseFloat(cell.dataset.value);
      };
      body.append(...sortBy([...body.rows], valueOf, ascending));
    });
  }

  function enhance(within) {
    within.querySelectorAll("table.sortable:not([data-ready])").forEach(makeSortable);
    drawWhenSeen(within);
  }
  window.innerpoReport = { enhance, sortBy, sortableHeaders };
  enhance(document);
})();
