// Keeps a page as the files are: asks for it again, takes over the parts that changed, draws the curves anew.
(() => {
  "use strict";
  const SEEN = 1500; // ms between looks while the page is visible
  const HIDDEN = 15000;
  const connection = document.getElementById("connection");
  const form = document.getElementById("runs");
  const figures = [...document.querySelectorAll("figure.curve")];
  const shown = new WeakMap(); // page or figure -> address and ETag of what it shows
  const raw = new Map(); // id of a part -> its HTML as the server sent it
  const parts = () => document.querySelectorAll("[data-part]");
  parts().forEach((part) => raw.set(part.id, part.innerHTML));

  function say(text, lost) {
    if (connection.textContent !== text) connection.textContent = text; // it is read out: only where it changes
    connection.classList.toggle("lost", lost);
  }

  // The answer's text, or null where `place` shows it already. Throws where there is none.
  async function ask(place, address) {
    const last = shown.get(place);
    const headers = last && last.address === address ? { "If-None-Match": last.tag } : {};
    const answer = await fetch(address, { headers, cache: "no-store" }).catch(() => {
      throw new Error("the server does not answer; this page shows what it last said");
    });
    if (answer.status === 304) return null;
    if (!answer.ok) throw new Error(await answer.text());
    const text = await answer.text();
    shown.set(place, { address, tag: answer.headers.get("ETag") });
    return text;
  }

  // -- parts of the page
  function takeRow(old, row) {
    old.dataset.state = row.dataset.state;
    [...row.cells].forEach((cell, i) => {
      if (cell.dataset.keep === undefined && old.cells[i].outerHTML !== cell.outerHTML) old.cells[i].replaceWith(cell.cloneNode(true));
    });
  }
  function takeRows(body, next) {
    const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    for (const row of next.rows) {
      const old = known.get(row.dataset.key);
      if (old) takeRow(old, row);
      else body.append(document.importNode(row, true));
      known.delete(row.dataset.key);
    }
    known.forEach((row) => row.remove());
  }
  function take(next) {
    parts().forEach((part) => {
      const other = next.getElementById(part.id);
      if (!other || raw.get(part.id) === other.innerHTML) return;
      raw.set(part.id, other.innerHTML);
      part.replaceChildren(...document.importNode(other, true).childNodes);
      window.innerpoReport.enhance(part);
    });
    const body = document.getElementById("rows");
    if (body && next.getElementById("rows")) takeRows(body, next.getElementById("rows"));
    if (document.title !== next.title) document.title = next.title;
    filter();
  }

  // -- curves
  function addressOf(figure) {
    const query = new URLSearchParams({ key: figure.querySelector("select").value });
    const runs = form ? ticked() : JSON.parse(figure.dataset.runs);
    runs.forEach((run) => query.append("run", run));
    return `/chart.json?${query}`;
  }
  function element(name, text) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function showKeys(select, drawn) {
    const keys = drawn.keys.includes(drawn.key) ? drawn.keys : [drawn.key, ...drawn.keys]; // it may be logged later
    if ([...select.options].map((option) => option.value).join("\n") === keys.join("\n")) return;
    select.replaceChildren(...keys.map((key) => element("option", key)));
    select.value = drawn.key;
  }
  function showLegend(list, entries) {
    const SVG = "http://www.w3.org/2000/svg";
    list.replaceChildren(...entries.map((entry) => {
      const item = element("li");
      const mark = item.appendChild(document.createElementNS(SVG, "svg"));
      mark.setAttribute("viewBox", "0 0 16 16");
      mark.setAttribute("aria-hidden", "true");
      const path = mark.appendChild(document.createElementNS(SVG, "path"));
      path.setAttribute("d", entry.path);
      path.setAttribute("fill", entry.colour);
      item.append(entry.label);
      return item;
    }));
    list.hidden = entries.length === 0;
  }
  async function draw(figure) {
    const address = addressOf(figure);
    const text = await ask(figure, address);
    if (text === null || addressOf(figure) !== address) return;
    const drawn = JSON.parse(text);
    const plot = figure.querySelector(".plot");
    showKeys(figure.querySelector("select"), drawn);
    showLegend(figure.querySelector(".legend"), drawn.legend);
    plot.setAttribute("aria-label", drawn.description);
    figure.querySelector(".note").hidden = drawn.spec !== null;
    const table = new DOMParser().parseFromString(drawn.table, "text/html");
    figure.querySelector(".data").replaceChildren(...table.body.childNodes);
    if (drawn.spec === null) {
      plot.replaceChildren();
      return;
    }
    const made = element("div");
    made.className = "drawing live";
    made.setAttribute("aria-hidden", "true");
    plot.append(made); // beside the last drawing, which goes when this one is ready: nothing flickers
    await window.vegaEmbed(made, drawn.spec, { actions: false, ast: true, renderer: "svg" });
    [...plot.children].forEach((child) => { if (child !== made) child.remove(); });
    plot.dataset.points = String(drawn.points);
  }

  // -- the list: what is ticked and what is shown
  const ticked = () => [...form.querySelectorAll("input[name=run]:checked")].map((box) => box.value);
  function filter() {
    if (!form) return;
    const words = form.querySelector("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = form.querySelector("#state").value;
    for (const row of document.getElementById("rows").rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (!state || row.dataset.state === state));
    }
  }
  async function drawAll() {
    for (const figure of figures) await draw(figure);
  }
  if (form) {
    form.addEventListener("change", (event) => {
      if (event.target.name !== "run") return;
      const query = new URLSearchParams(ticked().map((run) => ["run", run]));
      history.replaceState(null, "", query.size ? `/?${query}` : "/");
      look();
    });
    ["filter", "state"].forEach((id) => {
      const control = document.getElementById(id);
      control.addEventListener("input", filter);
      control.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
    });
  }
  figures.forEach((figure) => figure.querySelector("select").addEventListener("change", () => look()));

  // -- one look after the other
  let timer = 0;
  let looking = false;
  let again = false;
  async function look() {
    if (looking) {
      again = true;
      return;
    }
    looking = true;
    clearTimeout(timer);
    try {
      const text = await ask(document, location.pathname + location.search);
      if (text !== null) take(new DOMParser().parseFromString(text, "text/html"));
      await drawAll();
      say("Live: this page follows the files.", false);
    } catch (error) {
      say(`Not up to date: ${error.message}`, true);
    }
    looking = false;
    timer = setTimeout(look, again ? 0 : document.hidden ? HIDDEN : SEEN);
    again = false;
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  look();
})();
