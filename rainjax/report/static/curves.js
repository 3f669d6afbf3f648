// Figures of curves: buttons switch lines and bands; a line of one label is switched in all panels.
(() => {
  "use strict";

  // A sample of a line: in the colour that it has in all panels, or in the text's.
  function sample(lines) {
    const same = new Set(lines.map((line) => line.colour)).size === 1;
    const drawn = same
      ? lines[0].colour.startsWith("#")
        ? lines[0].colour
        : `var(--c-${lines[0].colour})`
      : "currentColor";
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("width", "30");
    made.setAttribute("height", "10");
    made.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const given = {
      x1: 0,
      x2: 30,
      y1: 5,
      y2: 5,
      "stroke-width": 2.5,
      "stroke-dasharray": lines[0].dashes.join(" ") || "none",
    };
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
    const hidden = new Set(),
      bands = { shown: true },
      updates = [];
    const all = () => updates.forEach((update) => update());
    const every = chart.panels.flatMap((data) => data.lines);
    const switches = document.createElement("div");
    switches.className = "switches";
    switches.setAttribute("role", "group");
    switches.setAttribute("aria-label", "Lines and bands");
    for (const label of new Set(every.map((line) => line.label))) {
      const own = every.filter((line) => line.label === label);
      switches.append(
        toggle(label, sample(own), (on) => {
          hidden[on ? "delete" : "add"](label);
          all();
        }),
      );
    }
    if (every.some((line) => line.low.some((value) => value !== null)))
      switches.append(
        toggle("95 % bands", null, (on) => {
          bands.shown = on;
          all();
        }),
      );
    here.before(switches);
    chart.panels.forEach((data) => updates.push(rainjaxPanel(here, chart, data, hidden, bands)));
  });
})();
