// The map of steps by tensors, and what a chosen tensor looks like in the first failing step.
function tensorMap(data, tools) {
  const { words, colour, isNarrow, shorten, escapeText, layout, config, fill } = tools;
  const map = data.heat_map;
  const limit = 3;
  const place = document.getElementById("heat_map");
  const kindChoice = document.getElementById("map_kind");
  const failingOnly = document.getElementById("map_failing");
  const tensorChoice = document.getElementById("map_tensor");
  const panel = document.getElementById("map_panel");
  let shown = [];

  const ratio = (level) => {
    const value = 10 ** level;
    return value >= 1e4 || value < 1e-3 ? value.toExponential(1) : value.toPrecision(2);
  };
  function verdict(level) {
    if (level <= -6) { return words.equal; }
    if (level >= 6) { return words.missing; }
    return fill(level > 0 ? words.beyond : words.within, ratio(level));
  }

  // One row for each tensor of the kind, or of every kind the worst at each step.
  function chosenRows() {
    const kind = kindChoice.value;
    const groups = new Map();
    map.rows.forEach((row, index) => {
      if (kind && row.kind !== kind) { return; }
      const key = kind ? row.kind + "\n" + row.name : row.tensor;
      if (!groups.has(key)) { groups.set(key, []); }
      groups.get(key).push(index);
    });
    const found = [...groups.values()].map((members) => {
      const first = map.rows[members[0]];
      const name = kind ? first.name : first.name && first.tensor;
      return { members, label: first.kind === "lr" ? first.kind_words + ", " + first.name : name || first.kind_words };
    });
    const isFailing = (group) => group.members.some((row) => map.levels[row].some((level) => level !== null && level > 0));
    return failingOnly.checked ? found.filter(isFailing) : found;
  }

  function worstAt(group, column) {
    let worst = null;
    for (const row of group.members) {
      const level = map.levels[row][column];
      if (level !== null && (worst === null || level > map.levels[worst][column])) { worst = row; }
    }
    return worst;
  }

  function cellText(group, column) {
    const index = worstAt(group, column);
    if (index === null) { return ""; }
    const row = map.rows[index];
    const lines = ["<b>" + escapeText(row.kind_words) + "</b>, " + words.step + " " + map.steps[column]];
    if (row.name) { lines.push(escapeText(shorten(row.name, 70))); }
    if (row.paddle) { lines.push(words.in_paddle + ": " + escapeText(shorten(row.paddle, 60))); }
    lines.push(verdict(map.levels[index][column]));
    const facts = map.facts[index + "," + map.steps[column]];
    if (facts) {
      const [maxAbs, relL2, torch, paddle, reason] = facts;
      if (maxAbs) { lines.push(words.greatest + " " + maxAbs + (relL2 ? ", " + words.rel_l2 + " " + relL2 : "")); }
      if (torch || paddle) { lines.push("torch " + torch + ", paddle " + paddle); }
      if (reason) { lines.push(escapeText(reason).replace(/(.{60,80}?) /g, "$1<br>")); }
    }
    return lines.join("<br>");
  }

  function draw() {
    shown = chosenRows();
    const narrow = isNarrow();
    const steps = map.steps.map(String);
    const columns = map.steps.map((step, column) => column);
    const height = Math.max(5, Math.min(20, 900 / Math.max(1, shown.length)));
    const labels = shown.map((group) => escapeText(shorten(group.label, narrow ? 16 : 44)));
    const every = Math.max(1, Math.ceil(11 / height));
    const ticks = shown.map((group, index) => index).filter((index) => index % every === 0);
    const scale = [[0, colour("cold")], [0.4999, colour("cool")], [0.5001, colour("warm")], [1, colour("hot")]];
    const trace = { type: "heatmap", x: steps, y: shown.map((group, index) => index),
      z: shown.map((group) => columns.map((column) => {
        const row = worstAt(group, column);
        return row === null ? null : Math.max(-limit, Math.min(limit, map.levels[row][column]));
      })),
      text: shown.map((group) => columns.map((column) => cellText(group, column))),
      zmin: -limit, zmax: limit, colorscale: scale, hoverinfo: "text", hoverongaps: false,
      xgap: steps.length > 80 ? 0 : 1, ygap: height >= 10 ? 1 : 0,
      colorbar: { orientation: "h", thickness: 10, len: narrow ? 0.9 : 0.5, x: 0, xanchor: "left", y: 1, yanchor: "bottom",
        tickvals: [-limit, 0, limit], ticktext: ["≤ 0.001", "1 = " + words.allowed, "≥ 1000"], outlinewidth: 0, ypad: 8 } };
    const drawn = layout({ tickvals: ticks, ticktext: ticks.map((index) => labels[index]), autorange: "reversed",
      showgrid: false, zeroline: false, tickfont: { size: narrow ? 10 : 12 } },
      { height: 150 + height * shown.length, hovermode: "closest", shapes: [], annotations: [], plot_bgcolor: colour("empty") });
    drawn.xaxis = { ...drawn.xaxis, type: "category", tickformat: "", nticks: narrow ? 6 : 16, showgrid: false };
    const first = data.diverged_at === null ? -1 : map.steps.indexOf(data.diverged_at);
    if (first >= 0) {
      drawn.shapes = [{ type: "rect", xref: "x", yref: "paper", x0: first - 0.5, x1: first + 0.5, y0: 0, y1: 1,
        line: { color: colour("mark"), width: 1.5, dash: "dot" } }];
    }
    Plotly.react(place, [trace], drawn, { ...config, displayModeBar: narrow ? false : "hover" });
    if (!place.dataset.listens) {
      place.dataset.listens = "yes";
      place.on("plotly_click", (event) => choose(event.points[0]));
    }
  }

  function detailOf(row) {
    const tensors = map.failure ? map.failure.tensors : [];
    return tensors.findIndex((item) => item.kind === row.kind && (item.torch_name || "") === (row.name || row.kind));
  }

  function choose(point) {
    const group = shown[point.y];
    const column = point.pointIndex ? point.pointIndex[1] : map.steps.indexOf(Number(point.x));
    const row = worstAt(group, column);
    if (row === null) { return; }
    const candidates = [row, ...group.members].map((index) => detailOf(map.rows[index])).filter((index) => index >= 0);
    showPanel(candidates.length ? candidates[0] : -1, cellText(group, column));
  }

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) { made.textContent = text; }
    if (className) { made.className = className; }
    return made;
  }

  // `text` holds only what cellText made, all of it escaped.
  function showPanel(index, text) {
    panel.replaceChildren();
    if (text) {
      const told = element("p");
      told.innerHTML = text;
      panel.append(told);
    }
    if (index < 0) {
      panel.append(element("p", words.no_details, "quiet"));
      tensorChoice.value = "";
      return;
    }
    const item = map.failure.tensors[index];
    tensorChoice.value = String(index);
    panel.append(element("h3", (item.torch_name || item.paddle_name) + "  " + item.dtype + " [" + item.shape.join(", ") + "]", "name"));
    const counts = [fill(words.equal_elements, item.equal, item.looked_at)];
    if (item.not_finite) { counts.push(fill(words.not_finite, item.not_finite)); }
    panel.append(element("p", counts.join("; "), "quiet"));
    const chart = element("div", undefined, "chart");
    chart.id = "histogram";
    panel.append(chart);
    const edges = map.failure.edges;
    const middles = item.counts.map((count, bin) => (edges[bin] + edges[bin + 1]) / 2);
    const bars = { type: "bar", x: middles, y: item.counts, width: 0.25, hoverinfo: "text",
      text: item.counts.map((count, bin) => count + " " + words.elements + ", " + ratio(edges[bin]) + " – " + ratio(edges[bin + 1])),
      textposition: "none", marker: { color: middles.map((middle) => colour(middle > 0 ? "hot" : "cold")) } };
    const drawn = layout({ title: { text: words.elements, font: { size: 12 } } }, { height: 220, hovermode: "closest", shapes: [], annotations: [], bargap: 0 });
    drawn.xaxis = { ...drawn.xaxis, title: { text: words.of_allowed, font: { size: isNarrow() ? 10 : 12 } }, tickvals: [-4, -2, 0, 2, 4, 6],
      ticktext: ["≤ 10⁻⁴", "0.01", "1", "100", "10⁴", "≥ 10⁶"], range: [-4.1, 6.1] };
    Plotly.newPlot(chart, [bars], drawn, { ...config, displayModeBar: false });
    const table = element("table");
    const head = element("tr");
    for (const title of [words.index, "torch", "paddle", words.difference]) { head.append(element("th", title)); }
    table.append(head);
    for (const worst of item.worst) {
      const row = element("tr");
      for (const value of ["[" + worst.index.join(", ") + "]", worst.torch, worst.paddle, worst.difference]) {
        row.append(element("td", typeof value === "number" ? String(Number(value.toPrecision(9))) : value, "n"));
      }
      table.append(row);
    }
    const scroll = element("div", undefined, "scroll");
    scroll.append(table);
    panel.append(scroll);
  }

  function fillChoices() {
    kindChoice.append(new Option(words.all_kinds, ""));
    for (const [kind, name] of map.kinds) { kindChoice.append(new Option(name, kind)); }
    const failure = map.failure;
    if (failure && failure.tensors.length) {
      tensorChoice.append(new Option(fill(words.choose, failure.step), ""));
      failure.tensors.forEach((item, index) => {
        const kind = map.kinds.find(([name]) => name === item.kind);
        tensorChoice.append(new Option(shorten(item.torch_name || item.paddle_name || "", 60) + " (" + (kind ? kind[1] : item.kind) + ")", index));
      });
    } else {
      tensorChoice.closest("label").hidden = true;
    }
    kindChoice.addEventListener("change", draw);
    failingOnly.addEventListener("change", draw);
    tensorChoice.addEventListener("change", () => {
      if (tensorChoice.value !== "") { showPanel(Number(tensorChoice.value), ""); }
    });
  }

  if (!kindChoice.options.length) { fillChoices(); }
  draw();
  const opened = map.failure ? map.failure.tensors.findIndex((item) => item.torch_name === data.diverged_tensor && item.kind === data.diverged_kind) : -1;
  if (map.failure && map.failure.tensors.length) { showPanel(tensorChoice.value === "" ? Math.max(0, opened) : Number(tensorChoice.value), ""); }
  return draw;
}
