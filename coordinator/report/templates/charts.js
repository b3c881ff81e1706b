"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const words = data.words;
  const isNarrow = () => window.innerWidth < 640;
  const fill = (text, ...values) => values.reduce((filled, value, index) => filled.replace("{" + index + "}", value), text);
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
      xanchor: late ? "right" : "left", xshift: late ? -4 : 4, text: words.first_divergence, showarrow: false, font: { color: colour("mark"), size: 12 } }];
    return { height: isNarrow() ? 280 : 320, margin: { l: 12, r: 12, t: 12, b: 12 }, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 13 }, hovermode: "x unified", hoverdistance: -1,
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), align: "left", namelength: -1,
        font: { color: colour("text") } },
      legend: { orientation: "h", x: 0, y: 1.04, yanchor: "bottom" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("text") }, shapes, annotations,
      xaxis: { title: { text: words.step, font: { size: 12 } }, tickformat: "d", ...grid }, yaxis: { ...grid, ...axis }, ...more };
  }

  const logarithmic = { type: "log", exponentformat: "power", dtick: 1, minor: { showgrid: false } };

  function linear(curves) {
    const values = curves.flat().filter((value) => value !== null);
    const [least, most] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    return { exponentformat: "e", ...(least === most && most !== 0 ? { range: [most - Math.abs(most) / 2, most + Math.abs(most) / 2] } : {}) };
  }

  function spread(chart) {
    const values = [...chart.difference, ...(chart.allowed || []), ...(chart.drift || []), ...(chart.noise || [])].filter((value) => value > 0);
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
      traces.push(line(words.allowed, chart.allowed_steps, chart.allowed, { color: colour("limit"), dash: "dash" }, { mode: "lines" }));
    }
    if (chart.drift) {
      traces.push(line(words.drift, chart.drift_steps, chart.drift, { color: colour("drift"), width: 1.5 }, { mode: "lines" }));
    }
    if (chart.noise) {
      traces.push(line(words.noise, chart.noise_steps, chart.noise, { color: colour("noise"), dash: "dot" }, { mode: "lines" }));
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

  const figures = {
    loss: (chart) => ({ traces: both(chart), layout: layout(linear([chart.torch, chart.paddle])) }),
    loss_difference: (chart) => ({ traces: apart(chart, words.loss_difference), layout: layout(spread(chart)) }),
    rates: (chart) => ({ traces: rates(chart), layout: layout(linear(chart.groups.flatMap((group) => [group.torch, group.paddle]))) }),
    rate_difference: (chart) => ({ traces: apart(chart, words.rate_difference), layout: layout(spread(chart)) }),
  };

  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById(name);
      if (!place || !data[name]) { continue; }
      for (const waiting of place.querySelectorAll(".waiting")) { waiting.remove(); }
      const drawn = figure(data[name]);
      Plotly.react(place, drawn.traces, drawn.layout, { ...config, displayModeBar: isNarrow() ? false : "hover" });
    }
    if (data.heat_map) {
      for (const waiting of document.querySelectorAll("#heat_map .waiting")) { waiting.remove(); }
      tensorMap(data, { words, colour, isNarrow, shorten, escapeText, layout, config, fill });
    }
    document.documentElement.dataset.drawn = "yes";
  }

  try {
    await loadLibrary();
  } catch (error) {
    for (const place of document.querySelectorAll(".waiting")) {
      place.textContent = words.cannot_unpack + " (" + error.message + ")";
    }
    return;
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.matchMedia("(max-width: 639px)").addEventListener("change", draw);
})();
