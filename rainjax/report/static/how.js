// How a number came about: hovering a cell shows it, a click or the keyboard keeps it open.
(() => {
  "use strict";
  const source = document.getElementById("records");
  if (!source) return;
  const records = JSON.parse(source.textContent);
  const MOST = 2; // of more records than these a cell names the others alone

  const box = document.createElement("div");
  box.id = "how";
  box.hidden = true;
  box.tabIndex = -1;
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-label", "How this number came about");
  document.body.append(box);
  let shown = null; // the button whose number is told
  let pinned = false;
  let timer = 0;

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // `doubted` says that the cell bears a mark, for whatever attack of its subject is in doubt.
  function told(record, doubted) {
    const part = document.createElement("section");
    part.append(element("h4", `${record.subject}, ${record.threat}`), element("p", record.knows));
    for (const check of record.failed) {
      if (!doubted && !check.doubts.includes(record.threat)) continue;
      const flag = element("p", "", "flag");
      flag.append(
        element("b", `Failed sanity check: ${check.name}.`),
        ` ${check.found} It puts in doubt: ${check.doubts.join(" and ")}.`,
      );
      part.append(flag);
    }
    const list = document.createElement("dl");
    const rows = [
      ["attack", record.attack.replaceAll(" = ", "\u00a0=\u00a0")],
      ["scored", record.scored],
      ["record", record.record],
      ["command", record.command],
    ];
    for (const [name, value] of rows) {
      if (!value) continue;
      const definition = document.createElement("dd");
      const code = name === "record" || name === "command";
      definition.append(code ? element("code", value) : value);
      list.append(element("dt", name), definition);
    }
    part.append(list);
    return part;
  }

  function place(button) {
    const cell = button.closest("td").getBoundingClientRect();
    const width = box.offsetWidth,
      height = box.offsetHeight,
      gap = 6;
    const left = Math.min(
      Math.max(cell.left, 8),
      document.documentElement.clientWidth - width - 8,
    );
    const below = cell.bottom + gap + height <= window.innerHeight;
    const top = below || cell.top < height + gap ? cell.bottom + gap : cell.top - gap - height;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${top + window.scrollY}px`;
  }

  function show(button, keep) {
    clearTimeout(timer);
    if (shown && shown !== button) shown.setAttribute("aria-expanded", "false");
    shown = button;
    pinned = keep;
    button.setAttribute("aria-expanded", "true");
    const own = button.dataset.records.split(" ").map((index) => records[index]);
    const doubted = button.closest("td").querySelector(".doubt") !== null;
    box.replaceChildren(...own.slice(0, MOST).map((record) => told(record, doubted)));
    if (own.length > MOST) {
      const rest = own.slice(MOST).map((record) => record.record);
      box.append(element("p", `And of ${rest.length} more: ${rest.join(", ")}.`));
    }
    if (keep) {
      const close = element("button", "×", "close");
      close.type = "button";
      close.setAttribute("aria-label", "Close");
      close.addEventListener("click", () => hide(true));
      box.append(close);
    }
    box.hidden = false;
    box.scrollTop = 0;
    place(button);
  }

  function hide(back) {
    clearTimeout(timer);
    if (!shown) return;
    const button = shown;
    shown.setAttribute("aria-expanded", "false");
    shown = null;
    pinned = false;
    box.hidden = true;
    if (back) button.focus();
  }

  const later = (action, wait) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
  const leave = () => {
    if (!pinned) later(() => hide(false), 220);
  };

  document.querySelectorAll("td[data-records]").forEach((cell) => {
    const said = cell.querySelector(".said");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "how";
    button.dataset.records = cell.dataset.records;
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", "how");
    said.before(button);
    button.append(said);
    cell.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse" && !pinned) later(() => show(button, false), 90);
    });
    cell.addEventListener("pointerleave", leave);
    cell.addEventListener("click", (event) => {
      if (event.target.closest("a") || String(window.getSelection())) return;
      if (shown === button && pinned) return hide(true);
      show(button, true);
      if (event.detail === 0) box.focus(); // a key, and not a pointer
    });
  });
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown) hide(pinned);
  });
  document.addEventListener("pointerdown", (event) => {
    if (pinned && !box.contains(event.target) && !event.target.closest("td[data-records]"))
      hide(false);
  });
  window.addEventListener("resize", () => hide(false));
})();
