// Curves with bands, drawn by uPlot: lines and bands are switched on and off, and a value is read
// under the pointer or by the arrow keys. A line of one label is switched in all panels at once.
(() => {
  "use strict";
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => (name.startsWith("#") ? name : style().getPropertyValue(`--c-${name}`).trim());
  const variable = (name) => style().getPropertyValue(name).trim();
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
  const HEIGHT = 270;

  // A mark as matplotlib names it, in pixels of the canvas.
  function mark(context, kind, x, y, size, hollow) {
    const turned = { v: [[-1, -0.8], [1, -0.8], [0, 1]], "^": [[-1, 0.8], [1, 0.8], [0, -1]],
      ">": [[-0.8, -1], [-0.8, 1], [1, 0]], D: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
      s: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]] };
    context.beginPath();
    if (turned[kind]) {
      turned[kind].forEach(([dx, dy]) => context.lineTo(x + size * dx, y + size * dy));
      context.closePath();
    } else context.arc(x, y, size, 0, 2 * Math.PI);
    if (hollow) { context.fillStyle = variable("--page"); }
    context.fill();
    context.stroke();
  }

  function panel(figure, chart, data, hiddenLines, bands) {
    const holder = document.createElement("div");
    holder.className = "chart";
    if (data.title) {
      const title = document.createElement("h4");
      title.textContent = data.title;
      holder.append(title);
    }
    const plot = document.createElement("div");
    plot.className = "plot";
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-roledescription", "chart");
    plot.setAttribute("aria-label", `${data.title ? `${data.title}: ` : ""}${chart.y_label} against ${chart.x_label}; the arrow keys read values`);
    const spoken = document.createElement("div");
    spoken.className = "unseen";
    spoken.setAttribute("aria-live", "polite");
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    plot.append(tip);
    holder.append(plot, spoken);
    figure.append(holder);

    const at = chart.log ? Math.log2 : (x) => x;
    const xs = [...new Set(data.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const spread = (line, values) => {
      const known = new Map(line.x.map((x, index) => [x, values[index]]));
      return xs.map((x) => known.get(x) ?? null);
    };
    const columns = [xs.map(at)];
    const series = [{}];
    const filled = [];
    data.lines.forEach((line) => {
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
      columns.push(spread(line, line.high), spread(line, line.low), spread(line, line.y));
      series.push({ ...edge }, { ...edge }, {
        label: line.label, stroke: () => colour(line.colour), width: 2, dash: line.dashes,
        points: { show: false }, spanGaps: true,
      });
      filled.push({ series: [series.length - 3, series.length - 2], fill: () => `${colour(line.colour)}1c` });
    });

    function drawMarks(u) {
      const context = u.ctx, ratio = uPlot.pxRatio;
      context.save();
      context.setLineDash([]);
      data.lines.forEach((line) => {
        if (hiddenLines.has(line.label)) return;
        context.strokeStyle = colour(line.colour);
        context.lineWidth = 1.4 * ratio;
        line.x.forEach((x, index) => {
          if (line.y[index] === null || !line.marks[index]) return;
          const left = u.valToPos(at(x), "x", true), top = u.valToPos(line.y[index], "y", true);
          if (line.x.length === 1 && bands.shown && line.low[index] !== null) {
            context.beginPath(); // a lone point has a bar for a band
            context.moveTo(left, u.valToPos(line.low[index], "y", true));
            context.lineTo(left, u.valToPos(line.high[index], "y", true));
            context.stroke();
          }
          context.fillStyle = colour(line.colour);
          mark(context, line.marks[index], left, top, 3 * ratio, line.hollow_end && index === line.x.length - 1);
        });
      });
      context.restore();
    }

    // What the lines that are shown say at the place under the cursor, beside it.
    function read(u) {
      const index = u.cursor.idx;
      const lines = index === null || index === undefined ? [] : data.lines.filter((line) =>
        !hiddenLines.has(line.label) && line.x.includes(xs[index]) && line.y[line.x.indexOf(xs[index])] !== null);
      tip.hidden = lines.length === 0;
      if (tip.hidden) return;
      const place = document.createElement("div");
      place.className = "place";
      place.textContent = `${chart.x_label}: ${Number(xs[index].toPrecision(6))}`;
      tip.replaceChildren(place, ...lines.map((line) => {
        const own = line.x.indexOf(xs[index]);
        const row = document.createElement("div"), name = document.createElement("span"), value = document.createElement("span");
        name.textContent = line.label;
        name.style.color = colour(line.colour);
        value.textContent = percent(line.y[own]);
        if (line.low[own] !== null) value.textContent += ` [${(100 * line.low[own]).toFixed(1)}, ${(100 * line.high[own]).toFixed(1)}]`;
        value.style.whiteSpace = "nowrap";
        row.append(name, value);
        return row;
      }));
      const left = u.valToPos(at(xs[index]), "x") + u.over.offsetLeft;
      const right = left > plot.clientWidth / 2;
      tip.style.maxWidth = `${Math.max(plot.clientWidth - 16, 120)}px`;
      tip.style.left = `${Math.max(0, Math.min(right ? left - tip.offsetWidth - 12 : left + 12, plot.clientWidth - tip.offsetWidth))}px`;
      tip.style.top = window.innerWidth < 640 ? `${HEIGHT}px` : "8px"; // below where it would hide the lines
    }

    const ends = [Math.min(...chart.ticks, ...xs), Math.max(...chart.ticks, ...xs)].map(at);
    const room = ends[1] > ends[0] ? 0 : 0.5;
    const axis = { stroke: () => variable("--soft"), font: FONT, labelFont: FONT, ticks: { stroke: () => variable("--line"), size: 5 } };
    // Of ticks that stand too near each other only every second has a number, or every third.
    const numbers = (u, splits) => {
      const shown = splits.map((value) => String(Number((chart.log ? 2 ** value : value).toPrecision(4))));
      const fits = (step) => {
        const kept = shown.map((text, index) => [text, u.valToPos(splits[index], "x")]).filter((_, index) => index % step === 0);
        return kept.every(([text, left], index) => index === 0 || left - kept[index - 1][1] > 8 + 7 * text.length);
      };
      let step = 1;
      while (step < shown.length && !fits(step)) step += 1;
      return shown.map((text, index) => (index % step === 0 ? text : ""));
    };
    const nearest = (u, left) => {
      const places = columns[0].map((x) => u.valToPos(x, "x"));
      return places.reduce((best, x) => (Math.abs(x - left) < Math.abs(best - left) ? x : best), places[0]);
    };
    const u = new uPlot({
      width: plot.clientWidth || 320, height: HEIGHT, legend: { show: false }, select: { show: false },
      padding: [12, 14, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false },
        move: (self, left, top) => [left < 0 ? left : nearest(self, left), top] },
      scales: { x: { time: false, range: [ends[0] - room, ends[1] + room] }, y: { range: [0, chart.top] } },
      axes: [
        { ...axis, label: chart.x_label, labelSize: 20, size: 34, grid: { show: false }, splits: () => chart.ticks.map(at), values: numbers },
        { ...axis, label: chart.y_label, labelSize: 20, size: 48, grid: { stroke: () => variable("--line"), width: 1 }, values: (self, splits) => splits.map((share) => `${Math.round(100 * share)} %`) },
      ],
      series, bands: filled,
      hooks: { draw: [drawMarks], setCursor: [read] },
    }, columns, plot);

    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const now = u.cursor.left >= 0 && u.cursor.idx !== null ? u.cursor.idx + step : step > 0 ? 0 : xs.length - 1;
      const index = Math.min(Math.max(now, 0), xs.length - 1);
      u.setCursor({ left: u.valToPos(columns[0][index], "x"), top: 10 });
      spoken.textContent = [...tip.children].map((row) => [...row.childNodes].map((part) => part.textContent).join(" ")).join("; ");
    });
    plot.addEventListener("blur", () => u.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => {
      if (plot.clientWidth && plot.clientWidth !== u.width) u.setSize({ width: plot.clientWidth, height: HEIGHT });
    }).observe(plot);
    window.addEventListener("rainjax-theme", () => u.redraw(false));

    return () => {
      data.lines.forEach((line, index) => {
        const on = !hiddenLines.has(line.label);
        [bands.shown && on, bands.shown && on, on].forEach((show, part) => u.setSeries(3 * index + 1 + part, { show }, false));
      });
      u.redraw();
    };
  }

  // A sample of a line: in the colour that it has in all panels, or in the text's.
  function sample(lines) {
    const same = new Set(lines.map((line) => line.colour)).size === 1;
    const drawn = same ? (lines[0].colour.startsWith("#") ? lines[0].colour : `var(--c-${lines[0].colour})`) : "currentColor";
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("width", "30");
    made.setAttribute("height", "10");
    made.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const given = { x1: 0, x2: 30, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": lines[0].dashes.join(" ") || "none" };
    Object.entries(given).forEach(([name, value]) => line.setAttribute(name, value));
    line.style.stroke = drawn;
    made.append(line);
    return made;
  }

  function toggle(label, art, change) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.setAttribute("aria-pressed", "true");
    if (art) button.append(art);
    button.append(label);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      change(on);
    });
    return button;
  }

  document.querySelectorAll("figure.curves").forEach((figure) => {
    const chart = JSON.parse(figure.querySelector("script").textContent);
    const here = figure.querySelector(".charts");
    const hidden = new Set(), bands = { shown: true }, updates = [];
    const all = () => updates.forEach((update) => update());
    const every = chart.panels.flatMap((data) => data.lines);
    const switches = document.createElement("div");
    switches.className = "switches";
    switches.setAttribute("role", "group");
    switches.setAttribute("aria-label", "Lines and bands");
    for (const label of new Set(every.map((line) => line.label))) {
      const own = every.filter((line) => line.label === label);
      switches.append(toggle(label, sample(own), (on) => { hidden[on ? "delete" : "add"](label); all(); }));
    }
    if (every.some((line) => line.low.some((value) => value !== null)))
      switches.append(toggle("95 % bands", null, (on) => { bands.shown = on; all(); }));
    here.before(switches);
    chart.panels.forEach((data) => updates.push(panel(here, chart, data, hidden, bands)));
  });
})();
