"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const isNarrow = () => window.innerWidth < 640;
  // The buttons are listed one by one: plotly's own choice has one that uploads the chart to a server.
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

  async function loadLibrary() {
    const holder = document.getElementById("library");
    const packed = Uint8Array.from(atob(holder.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    holder.remove();
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const shorten = (text, room) =>
    text.length <= room ? text : text.slice(0, Math.ceil(room / 3)) + "…" + text.slice(-Math.floor((room * 2) / 3));
  const escapeText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function line(name, steps, values, style, more) {
    const few = steps.length <= 60;
    return { type: "scatter", name, x: steps, y: values, mode: few ? "lines+markers" : "lines", line: { width: 2, simplify: false, ...style },
      marker: { size: 5, color: style.color }, connectgaps: false, ...more };
  }

  function layout(axis, more) {
    const grid = { gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("grid"), automargin: true };
    const shapes = data.diverged_at === null ? [] : [{ type: "line", xref: "x", yref: "paper", x0: data.diverged_at,
      x1: data.diverged_at, y0: 0, y1: 1, line: { color: colour("mark"), width: 1.5, dash: "dot" } }];
    const late = data.diverged_at > data.last_step / 2;
    const annotations = data.diverged_at === null ? [] : [{ xref: "x", yref: "paper", x: data.diverged_at, y: 0, yanchor: "bottom",
      xanchor: late ? "right" : "left", xshift: late ? -4 : 4, text: "first divergence", showarrow: false, font: { color: colour("mark"), size: 12 } }];
    return { height: isNarrow() ? 280 : 320, margin: { l: 12, r: 12, t: 12, b: 12 }, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 13 }, hovermode: "x unified", hoverdistance: -1,
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), align: "left", namelength: -1,
        font: { color: colour("text") } },
      legend: { orientation: "h", x: 0, y: 1.04, yanchor: "bottom" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("text") }, shapes, annotations,
      xaxis: { title: { text: "step" }, tickformat: "d", ...grid }, yaxis: { ...grid, ...axis }, ...more };
  }

  const logarithmic = { type: "log", exponentformat: "power", dtick: 1, minor: { showgrid: false } };

  function linear(curves) {
    const values = curves.flat().filter((value) => value !== null);
    const [least, most] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    return { exponentformat: "e", ...(least === most && most !== 0 ? { range: [most - Math.abs(most) / 2, most + Math.abs(most) / 2] } : {}) };
  }

  function spread(chart) {
    const values = [...chart.difference, ...(chart.allowed || []), ...(chart.drift || [])].filter((value) => value > 0);
    const powers = values.map(Math.log10);
    const decades = powers.length ? Math.max(...powers) - Math.min(...powers) : 1;
    return { ...logarithmic, dtick: Math.max(1, Math.ceil(decades / 6)) };
  }

  function both(chart) {
    return [line("torch", chart.steps, chart.torch, { color: colour("torch"), width: 4 }),
      line("paddle", chart.steps, chart.paddle, { color: colour("paddle"), dash: "dash" })];
  }

  function apart(chart, what) {
    const traces = [line(what, chart.steps, chart.difference, { color: colour("mark") })];
    if (chart.allowed) {
      traces.push(line("allowed", chart.allowed_steps, chart.allowed, { color: colour("limit"), dash: "dash" }, { mode: "lines" }));
    }
    if (chart.drift) {
      traces.push(line("drift of parameters", chart.drift_steps, chart.drift, { color: colour("drift"), width: 1.5 }, { mode: "lines" }));
    }
    return traces;
  }

  function rates(chart) {
    const dashes = ["dash", "dot", "dashdot", "longdash", "longdashdot", "dash"];
    return chart.groups.flatMap((group, index) => {
      const label = group.label ? " " + group.label : "";
      return [line("torch" + label, chart.steps, group.torch, { color: colour("torch"), width: 4 }, { opacity: 1 - 0.12 * index }),
        line("paddle" + label, chart.steps, group.paddle, { color: colour("paddle"), dash: dashes[index] }, { opacity: 1 - 0.12 * index })];
    });
  }

  function hoverText(row, step, detail) {
    if (!detail) { return ""; }
    const [ratio, passed, maxAbs, relL2, torch, paddle, name, other, reason] = detail;
    const lines = ["<b>" + escapeText(row.kind) + "</b>, step " + step];
    if (name || row.name) { lines.push(escapeText(shorten(name || row.name, 70))); }
    if (other) { lines.push("in paddle: " + escapeText(shorten(other, 60))); }
    const verdict = passed ? (Number(ratio) > 1 ? "passed by a rule of its own" : "passed") : "<b>out of tolerance</b>";
    lines.push(verdict + (ratio ? ", " + ratio + " times what is allowed" : ""));
    if (maxAbs) { lines.push("greatest difference " + maxAbs + ", relative L2 " + relL2); }
    if (torch || paddle) { lines.push("torch " + torch + ", paddle " + paddle); }
    if (reason) { lines.push(escapeText(reason).replace(/(.{60,80}?) /g, "$1<br>")); }
    return lines.join("<br>");
  }

  function heatMap(map) {
    const narrow = isNarrow();
    const steps = map.steps.map(String);
    const labels = map.rows.map((row) => row.name ? shorten(row.name, narrow ? 16 : 40) : "<b>" + row.kind + "</b>");
    const positions = map.rows.map((row, index) => index);
    const text = map.rows.map((row, y) => map.details[y].map((detail, x) => hoverText(row, map.steps[x], detail)));
    const scale = [[0, colour("cold")], [0.4999, colour("cool")], [0.5001, colour("warm")], [1, colour("hot")]];
    const trace = { type: "heatmap", x: steps, y: positions, z: map.z, zmin: -map.limit, zmax: map.limit, colorscale: scale, text,
      hoverinfo: "text", hoverongaps: false, xgap: steps.length > 80 ? 0 : 1, ygap: 1,
      colorbar: { orientation: "h", thickness: 10, len: narrow ? 0.9 : 0.5, x: 0, xanchor: "left", y: 1, yanchor: "bottom",
        tickvals: [-map.limit, 0, map.limit], ticktext: ["≤ 0.001", "1 = allowed", "≥ 1000"], outlinewidth: 0, ypad: 8 } };
    const axes = layout({ tickvals: positions, ticktext: labels.map((label) => label.startsWith("<b>") ? label : escapeText(label)),
      autorange: "reversed", showgrid: false, zeroline: false, tickfont: { size: narrow ? 10 : 12 } },
      { height: 150 + 20 * map.rows.length, hovermode: "closest", shapes: [], annotations: [], plot_bgcolor: colour("empty") });
    axes.xaxis = { ...axes.xaxis, type: "category", tickformat: "", nticks: narrow ? 6 : 16, showgrid: false };
    return { traces: [trace], layout: axes };
  }

  const figures = {
    loss: (chart) => ({ traces: both(chart), layout: layout(linear([chart.torch, chart.paddle])) }),
    loss_difference: (chart) => ({ traces: apart(chart, "difference of losses"), layout: layout(spread(chart)) }),
    rates: (chart) => ({ traces: rates(chart), layout: layout(linear(chart.groups.flatMap((group) => [group.torch, group.paddle]))) }),
    rate_difference: (chart) => ({ traces: apart(chart, "difference of rates"), layout: layout(spread(chart)) }),
    heat_map: heatMap,
  };

  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById(name);
      if (!place || !data[name]) { continue; }
      for (const waiting of place.querySelectorAll(".waiting")) { waiting.remove(); }
      const drawn = figure(data[name]);
      Plotly.react(place, drawn.traces, drawn.layout, { ...config, displayModeBar: isNarrow() ? false : "hover" });
    }
    document.documentElement.dataset.drawn = "yes";
  }

  try {
    await loadLibrary();
  } catch (error) {
    for (const place of document.querySelectorAll(".waiting")) {
      place.textContent = "This browser cannot unpack the charts (" + error.message + "); the tables below hold their numbers.";
    }
    return;
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.matchMedia("(max-width: 639px)").addEventListener("change", draw);
})();
