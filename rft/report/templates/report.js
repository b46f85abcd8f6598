"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const plots = JSON.parse(byId("plots").textContent);
  const hiddenArms = new Set();
  const drawn = new Set();
  let axis = byId("axis") ? byId("axis").value : "steps";

  // ---- Figures: drawn when they come near the window, in the colours of the reader's theme.

  // Plotly is large: its text becomes a script once the page is there, so that reading need not wait for it.
  function plotly() {
    if (!window.Plotly) {
      const script = document.createElement("script");
      script.textContent = byId("plotly").textContent;
      document.head.append(script);
    }
    return window.Plotly;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const arms = [];
    while (read("--arm-" + arms.length)) arms.push(read("--arm-" + arms.length));
    return { arms, ink: read("--ink"), soft: read("--soft"), line: read("--line"), sheet: read("--sheet") };
  }

  function specificationOf(name) {
    return plots.figures[name] || plots.curves.plots[name];
  }

  function traceOf(template, palette) {
    const { arm, grid, own } = template.meta;
    const colour = palette.arms[arm % palette.arms.length];
    const trace = { ...template, visible: own || !hiddenArms.has(String(arm)) };
    if (grid !== undefined) {
      const x = plots.curves.grids[grid][axis];
      trace.x = x || [];
      if (!x) trace.visible = false;
    }
    if (trace.marker) trace.marker = { ...trace.marker, color: colour, line: { color: colour } };
    if (trace.line) trace.line = { ...trace.line, color: colour };
    for (const bars of ["error_x", "error_y"]) {
      if (trace[bars]) trace[bars] = { ...trace[bars], color: colour };
    }
    return trace;
  }

  function layoutOf(specification, curve, palette) {
    const axes = { gridcolor: palette.line, linecolor: palette.line, zerolinecolor: palette.ink, zerolinewidth: 1.5 };
    const layout = {
      ...specification.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      dragmode: touch ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: palette.soft },
      hoverlabel: { bgcolor: palette.sheet, bordercolor: palette.line, font: { color: palette.ink }, align: "left" },
      xaxis: { ...axes, ...specification.layout.xaxis },
      yaxis: { ...axes, ...specification.layout.yaxis },
    };
    for (const side of [layout.xaxis, layout.yaxis]) side.title = { ...side.title, font: { size: 12.5 } };
    if (layout.yaxis.ticktext) layout.yaxis.tickfont = { color: palette.ink, size: 13 };
    if (curve) layout.xaxis.title.text = plots.curves.axes[axis];
    return layout;
  }

  function draw(element) {
    const name = element.dataset.plot;
    const specification = specificationOf(name);
    const palette = colours();
    const traces = specification.data.map((template) => traceOf(template, palette));
    const layout = layoutOf(specification, name in plots.curves.plots, palette);
    const settings = { displayModeBar: false, responsive: true, showTips: false };
    if (!traces.some((trace) => trace.visible)) {
      const text = traces.every((trace) => hiddenArms.has(String(trace.meta.arm)))
        ? "All of its arms are hidden"
        : "Not known over " + plots.curves.axes[axis];
      const place = { xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false };
      layout.annotations = [{ ...place, text, font: { size: 14, color: palette.soft } }];
    }
    plotly().react(element, traces, layout, settings);
    drawn.add(element);
  }

  function redraw() {
    drawn.forEach(draw);
  }

  const figures = all(".plot");
  for (const element of figures) element.style.minHeight = specificationOf(element.dataset.plot).layout.height + "px";
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
      }
    },
    { rootMargin: "300px" },
  );
  figures.forEach((element) => near.observe(element));
  const idle = window.requestIdleCallback || ((later) => setTimeout(later, 200));
  if (figures.length) window.addEventListener("load", () => idle(plotly));
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => figures.filter((element) => !drawn.has(element)).forEach(draw));

  // ---- Learning curves: over which axis, and which of the other metrics.

  function noteAxis() {
    const known = new Set();
    const without = new Set();
    for (const specification of Object.values(plots.curves.plots)) {
      for (const { meta } of specification.data) {
        (plots.curves.grids[meta.grid][axis] ? known : without).add(String(meta.arm));
      }
    }
    const names = all("#curves button.arm").filter((b) => without.has(b.dataset.arm) && !known.has(b.dataset.arm));
    byId("axis-note").textContent = names.length
      ? "Not known for " + names.map((button) => button.textContent.trim()).join(", ")
      : "";
  }

  if (byId("axis")) {
    byId("curve-controls").hidden = false;
    byId("curve-controls").addEventListener("submit", (event) => event.preventDefault());
    byId("axis").addEventListener("input", () => {
      axis = byId("axis").value;
      noteAxis();
      redraw();
    });
    noteAxis();
  }
  if (byId("metric")) {
    byId("metric").addEventListener("input", () => {
      const more = byId("more");
      const chosen = byId("metric").selectedOptions[0];
      more.dataset.plot = chosen.value;
      more.setAttribute("aria-label", chosen.value);
      byId("more-caption").textContent = chosen.dataset.caption;
      draw(more);
    });
  }

  // ---- Answers: a search looks through all prompts; without one, the page shows the prompt that is picked.

  const controls = byId("controls");
  const articles = all("article.prompt");
  const pick = byId("pick");
  const find = byId("find");
  let view = "asked";

  function show(element, shown) {
    element.toggleAttribute("data-hidden", !shown);
  }

  function inView() {
    const place = (article) => Number(article.dataset[view]);
    return articles.filter((article) => view in article.dataset).sort((a, b) => place(a) - place(b));
  }

  function shorten(text) {
    return text.length > 48 ? text.slice(0, 47) + "…" : text;
  }

  function fillPick() {
    const chosen = inView();
    const options = chosen.map((article, place) => {
      const text = article.querySelector("h3 .text").textContent;
      return new Option(place + 1 + ": " + shorten(text), article.dataset.prompt);
    });
    pick.replaceChildren(...options, new Option("all " + chosen.length + " at once", ""));
    chosen.forEach((article, place) => {
      article.querySelector(".no").textContent = place + 1;
    });
    byId("prompts").prepend(...chosen);
  }

  function highlight(words) {
    if (!window.CSS || !CSS.highlights) return;
    const ranges = [];
    for (const node of words ? all("article.prompt:not([data-hidden]) .text") : []) {
      const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode.data.toLowerCase();
        for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
          if (at + words.length > walker.currentNode.length) break;
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, at + words.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  function update() {
    const words = find.value.trim().toLowerCase();
    const chosen = inView();
    const one = words === "" && pick.value !== "";
    const candidates = words === "" ? new Set(chosen) : new Set(articles);
    let shown = 0;
    for (const article of articles) {
      let text = article.querySelector("h3 .text").textContent;
      for (const card of all(".card", article)) {
        const wanted = !hiddenArms.has(card.dataset.arm);
        show(card, wanted);
        if (wanted) text += "\n" + card.querySelector(".text").textContent;
      }
      const wanted =
        candidates.has(article) &&
        (one ? pick.value === article.dataset.prompt : text.toLowerCase().includes(words));
      show(article, wanted);
      if (wanted) shown += 1;
    }
    const place = pick.selectedIndex;
    previous.disabled = !one || place === 0;
    next.disabled = !one || place === chosen.length - 1;
    byId("count").textContent = one
      ? place + 1 + " of " + chosen.length
      : shown + " of " + candidates.size + (words ? " prompts match" : " shown");
    highlight(words);
  }

  function turn(by) {
    pick.selectedIndex += by;
    update();
  }

  const previous = byId("previous");
  const next = byId("next");
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", (event) => {
    if (event.target.name === "view") {
      view = event.target.value;
      fillPick();
    }
    update();
  });
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  fillPick();
  update();

  // ---- Arms: one switch for all figures and answers.

  const switches = all("button.arm");
  for (const button of switches) {
    button.addEventListener("click", () => {
      const arm = button.dataset.arm;
      if (!hiddenArms.delete(arm)) hiddenArms.add(arm);
      for (const other of switches) {
        if (other.dataset.arm === arm) other.setAttribute("aria-pressed", String(!hiddenArms.has(arm)));
      }
      redraw();
      update();
    });
  }

  // ---- Tables: a heading sorts its column.

  function sortBy(table, heading, place) {
    const falling = heading.getAttribute("aria-sort") !== "descending";
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const valueOf = (row) => {
      const cell = row.children[place];
      return "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
    };
    const compare = (a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? y.localeCompare(x) : Number(y) - Number(x);
      return falling ? order : -order;
    };
    table.tBodies[0].append(...Array.from(table.tBodies[0].rows).sort(compare));
  }

  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((heading, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sortBy(table, heading, place));
    });
  }

  // ---- The summary as a file.

  const download = byId("download");
  if (download) {
    download.hidden = false;
    download.addEventListener("click", (event) => {
      event.preventDefault();
      const text = JSON.stringify(JSON.parse(byId("summary").textContent), null, 2);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = "summary.json";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
