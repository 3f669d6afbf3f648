// A panel of curves with bands, drawn by uPlot; values are read under the pointer or by arrow keys.
const rainjaxPanel = (() => {
  "use strict";
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) =>
    name.startsWith("#") ? name : style().getPropertyValue(`--c-${name}`).trim();
  const variable = (name) => style().getPropertyValue(name).trim();
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const FONT =
    '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
  const HEIGHT = 270;

  // Corners of marks, as matplotlib names these: x and y of each in turn. Any other is a disc.
  const SHAPES = {
    v: [-1, -0.8, 1, -0.8, 0, 1],
    "^": [-1, 0.8, 1, 0.8, 0, -1],
    ">": [-0.8, -1, -0.8, 1, 1, 0],
    D: [0, -1.2, 1.2, 0, 0, 1.2, -1.2, 0],
    s: [-0.9, -0.9, 0.9, -0.9, 0.9, 0.9, -0.9, 0.9],
  };

  function mark(context, kind, x, y, size, hollow) {
    context.beginPath();
    if (SHAPES[kind]) {
      const corners = SHAPES[kind];
      for (let i = 0; i < corners.length; i += 2)
        context.lineTo(x + size * corners[i], y + size * corners[i + 1]);
      context.closePath();
    } else context.arc(x, y, size, 0, 2 * Math.PI);
    if (hollow) context.fillStyle = variable("--page");
    context.fill();
    context.stroke();
  }

  // Adds a panel to a figure, and returns what shows that lines, or bands, were switched.
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
    const what = `${chart.y_label} against ${chart.x_label}; the arrow keys read values`;
    plot.setAttribute("aria-label", data.title ? `${data.title}: ${what}` : what);
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
    const told = (x) =>
      chart.x_shares
        ? `${Number((100 * x).toPrecision(3))}\u00a0%`
        : `${Number(x.toPrecision(5))}`;
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
      series.push(
        { ...edge },
        { ...edge },
        {
          label: line.label,
          stroke: () => colour(line.colour),
          width: 2,
          dash: line.dashes,
          points: { show: false },
          spanGaps: true,
          paths: line.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        },
      );
      filled.push({
        series: [series.length - 3, series.length - 2],
        fill: () => `${colour(line.colour)}1c`,
      });
    });

    function drawMarks(u) {
      const context = u.ctx,
        ratio = uPlot.pxRatio;
      context.save();
      context.setLineDash([]);
      data.lines.forEach((line) => {
        if (hiddenLines.has(line.label)) return;
        context.strokeStyle = colour(line.colour);
        context.lineWidth = 1.4 * ratio;
        line.x.forEach((x, index) => {
          if (line.y[index] === null || !line.marks[index]) return;
          const left = u.valToPos(at(x), "x", true),
            top = u.valToPos(line.y[index], "y", true);
          if (line.x.length === 1 && bands.shown && (line.low[index] ?? null) !== null) {
            context.beginPath(); // a lone point has a bar for a band
            context.moveTo(left, u.valToPos(line.low[index], "y", true));
            context.lineTo(left, u.valToPos(line.high[index], "y", true));
            context.stroke();
          }
          context.fillStyle = colour(line.colour);
          mark(
            context,
            line.marks[index],
            left,
            top,
            3 * ratio,
            line.hollow_end && index === line.x.length - 1,
          );
        });
      });
      context.restore();
    }

    // Which point of a line is at a place; one without marks is known between its points as well.
    const pointAt = (line, x) => {
      const last = () => line.x.filter((other) => other <= x).length - 1;
      const own = line.marks.length || x > line.x.at(-1) ? line.x.indexOf(x) : last();
      return own >= 0 && line.y[own] !== null ? own : -1;
    };

    function row(line, x) {
      const own = pointAt(line, x);
      const made = document.createElement("div"),
        name = document.createElement("span"),
        value = document.createElement("span");
      name.textContent = line.label;
      name.style.color = colour(line.colour);
      const ends = [line.low[own], line.high[own]].map((end) => (100 * end).toFixed(1));
      const interval = (line.low[own] ?? null) === null ? "" : ` [${ends.join(", ")}]`;
      value.textContent = percent(line.y[own]) + interval;
      value.style.whiteSpace = "nowrap";
      made.append(name, value);
      return made;
    }

    // What the lines that are shown say at the place under the cursor, beside it.
    function read(u) {
      const x = xs[u.cursor.idx ?? -1];
      const seen = new Map(); // a lone mark on a line of the same label says nothing new
      for (const line of data.lines)
        if (x !== undefined && !hiddenLines.has(line.label) && pointAt(line, x) >= 0)
          seen.set(line.label, seen.get(line.label) ?? line);
      tip.hidden = seen.size === 0;
      if (tip.hidden) return;
      const place = document.createElement("div");
      place.className = "place";
      place.textContent = `${chart.x_label}: ${told(x)}`;
      tip.replaceChildren(place, ...[...seen.values()].map((line) => row(line, x)));
      const left = u.valToPos(at(x), "x") + u.over.offsetLeft;
      const most = plot.clientWidth - tip.offsetWidth;
      const wanted = left > plot.clientWidth / 2 ? left - tip.offsetWidth - 12 : left + 12;
      tip.style.maxWidth = `${Math.max(plot.clientWidth - 16, 120)}px`;
      tip.style.left = `${Math.max(0, Math.min(wanted, most))}px`;
      // On a small screen it would hide the lines, and stands below them.
      tip.style.top = window.innerWidth < 640 ? `${HEIGHT}px` : "8px";
    }

    const ends = [Math.min(...chart.ticks, ...xs), Math.max(...chart.ticks, ...xs)].map(at);
    const room = ends[1] > ends[0] ? 0 : 0.5;
    const axis = {
      stroke: () => variable("--soft"),
      font: FONT,
      labelFont: FONT,
      ticks: { stroke: () => variable("--line"), size: 5 },
    };
    // Of ticks that stand too near each other only every second has a number, or every third.
    const numbers = (u, splits) => {
      const shown = splits.map((value) => told(chart.log ? 2 ** value : value));
      const fits = (step) => {
        const kept = shown
          .map((text, index) => [text, u.valToPos(splits[index], "x")])
          .filter((_, index) => index % step === 0);
        return kept.every(
          ([text, left], index) => index === 0 || left - kept[index - 1][1] > 8 + 7 * text.length,
        );
      };
      let step = 1;
      while (step < shown.length && !fits(step)) step += 1;
      return shown.map((text, index) => (index % step === 0 ? text : ""));
    };
    const nearest = (u, left) => {
      const places = columns[0].map((x) => u.valToPos(x, "x"));
      return places.reduce(
        (best, x) => (Math.abs(x - left) < Math.abs(best - left) ? x : best),
        places[0],
      );
    };
    const u = new uPlot(
      {
        width: plot.clientWidth || 320,
        height: HEIGHT,
        legend: { show: false },
        select: { show: false },
        padding: [12, 24, 0, 0],
        cursor: {
          y: false,
          drag: { x: false, y: false },
          points: { show: false },
          move: (self, left, top) => [left < 0 ? left : nearest(self, left), top],
        },
        scales: {
          x: { time: false, range: [ends[0] - room, ends[1] + room] },
          y: { range: [0, chart.top] },
        },
        axes: [
          {
            ...axis,
            label: chart.x_label,
            labelSize: 20,
            size: 34,
            grid: { show: false },
            splits: () => chart.ticks.map(at),
            values: numbers,
          },
          {
            ...axis,
            label: chart.y_label,
            labelSize: 20,
            size: 48,
            grid: { stroke: () => variable("--line"), width: 1 },
            values: (self, splits) => splits.map((share) => `${Math.round(100 * share)} %`),
          },
        ],
        series,
        bands: filled,
        hooks: { draw: [drawMarks], setCursor: [read] },
      },
      columns,
      plot,
    );

    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const now =
        u.cursor.left >= 0 && u.cursor.idx !== null
          ? u.cursor.idx + step
          : step > 0
            ? 0
            : xs.length - 1;
      const index = Math.min(Math.max(now, 0), xs.length - 1);
      u.setCursor({ left: u.valToPos(columns[0][index], "x"), top: 10 });
      spoken.textContent = [...tip.children]
        .map((row) => [...row.childNodes].map((part) => part.textContent).join(" "))
        .join("; ");
    });
    plot.addEventListener("blur", () => u.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => {
      if (plot.clientWidth && plot.clientWidth !== u.width)
        u.setSize({ width: plot.clientWidth, height: HEIGHT });
    }).observe(plot);
    window.addEventListener("rainjax-theme", () => u.redraw(false));

    return () => {
      data.lines.forEach((line, index) => {
        const on = !hiddenLines.has(line.label);
        [bands.shown && on, bands.shown && on, on].forEach((show, part) =>
          u.setSeries(3 * index + 1 + part, { show }, false),
        );
      });
      u.redraw();
    };
  }

  return panel;
})();
