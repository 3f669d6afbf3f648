// Tables: a button in each head sorts by its column, and each box knows whether it is scrolled.
(() => {
  "use strict";

  // The number that a cell says, NaN for none: "≤ 42.0 %" is 42, "8/255" a fraction, and of
  // "between 1.0 % (proved) and 3.1 % (attacked)" what the attack leaves.
  function number(text) {
    const bounds = text.match(/^between .* and (.*)$/);
    const found = (bounds ? bounds[1] : text).match(
      /^(?:\w+ = )?[≤≥<>~±]?\s*([+-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?)(?:\/(\d+))?/i,
    );
    if (!found) return NaN;
    return Number(found[1].replaceAll(",", "")) / Number(found[2] || 1);
  }

  function text(cell) {
    return (cell.querySelector(".said") || cell).textContent.trim();
  }

  const names = new Intl.Collator(undefined, { numeric: true });

  // Sorts by numbers where most cells are some; a cell without one comes last, either way.
  function compare(rows, column) {
    const said = new Map(rows.map((row) => [row, text(row.cells[column])]));
    const numbers = new Map(rows.map((row) => [row, number(said.get(row))]));
    const told = rows.filter((row) => !["", "—"].includes(said.get(row)));
    const some = told.filter((row) => !Number.isNaN(numbers.get(row)));
    const numeric = column > 0 && some.length > 0 && 2 * some.length >= told.length;
    const missing = (row) =>
      numeric ? Number.isNaN(numbers.get(row)) : ["", "—"].includes(said.get(row));
    return (a, b, sign) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const order = numeric
        ? numbers.get(a) - numbers.get(b)
        : names.compare(said.get(a), said.get(b));
      return sign * order;
    };
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    if (original.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    // The study's own order is one step of three.
    const steps = { none: "ascending", ascending: "descending", descending: "none" };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      const label = document.createElement("span");
      label.append(...head.childNodes);
      if (!label.textContent.trim()) {
        const name = document.createElement("span");
        name.className = "unseen";
        name.textContent = "name";
        label.append(name);
      }
      button.append(label);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const wanted = steps[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", wanted);
        const rows = [...original];
        const order = compare(rows, column);
        const sign = wanted === "descending" ? -1 : 1;
        if (wanted !== "none") rows.sort((a, b) => order(a, b, sign));
        body.append(...rows);
      });
    });
  }

  document.querySelectorAll("table[data-sort]").forEach(sortable);
  document.querySelectorAll(".wide").forEach((box) => {
    const mark = () => box.classList.toggle("scrolled", box.scrollLeft > 0);
    box.addEventListener("scroll", mark, { passive: true });
  });
})();
