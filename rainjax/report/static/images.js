// Images, one at a time: all versions of it side by side, zoomed together, pixel by pixel.
(() => {
  "use strict";
  const MOST = 32;

  function button(text, name, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "plain";
    made.textContent = text;
    if (name) made.setAttribute("aria-label", name);
    made.addEventListener("click", action);
    return made;
  }

  // The pixels of a picture, read once.
  function reader(image) {
    let context = null;
    return (x, y) => {
      if (!context) {
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
        context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
      }
      return [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
    };
  }

  function viewer(root) {
    const items = [...root.querySelectorAll("li")];
    const factor = Number(root.dataset.factor);
    const view = { place: 0, scale: 1, x: 0, y: 0 }; // x and y in widths and heights of a frame
    const parts = items.map((item) =>
      [...item.querySelectorAll("figure")].map((figure) => {
        const value = document.createElement("span");
        value.className = "value";
        value.append("\u00a0");
        figure.querySelector("figcaption").append(document.createElement("br"), value);
        const image = figure.querySelector("img");
        const dot = document.createElement("div");
        dot.className = "dot";
        dot.hidden = true;
        image.parentNode.append(dot);
        return {
          image,
          dot,
          value,
          frame: image.parentNode,
          pixel: reader(image),
          change: image.dataset.version === root.dataset.change,
        };
      }),
    );

    const count = document.createElement("span");
    count.className = "grow";
    count.setAttribute("aria-live", "polite");
    const size = document.createElement("span");
    size.className = "value";
    const back = button("← Previous", "Previous image", () => go(-1));
    const next = button("Next →", "Next image", () => go(1));
    const smaller = button("−", "Zoom out", () => zoom(0.5));
    const larger = button("+", "Zoom in", () => zoom(2));
    const whole = button("Whole", "Show the whole image", () => zoom(0));
    const bar = document.createElement("div");
    bar.className = "bar";
    const zooms = document.createElement("span");
    zooms.className = "zooms";
    zooms.append(smaller, size, larger, whole);
    bar.append(back, next, count, zooms);
    root.prepend(bar);
    root.classList.add("live");
    root.tabIndex = 0;
    root.setAttribute("role", "group");

    function draw() {
      items.forEach((item, index) => {
        item.hidden = index !== view.place;
      });
      count.textContent = `Image ${view.place + 1} of ${items.length}`;
      size.textContent = `${Number(view.scale.toFixed(1))} ×`;
      smaller.disabled = whole.disabled = view.scale === 1;
      larger.disabled = view.scale >= MOST;
      root.classList.toggle("zoomed", view.scale > 1);
      parts[view.place].forEach(({ image, dot }) => {
        image.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
        dot.hidden = true;
      });
    }

    function go(step) {
      view.place = (view.place + step + items.length) % items.length;
      draw();
    }

    // Zooms about a point of a frame, its middle unless one is given; 0 shows the whole.
    function zoom(by, x = 0.5, y = 0.5) {
      const scale = by === 0 ? 1 : Math.min(Math.max(view.scale * by, 1), MOST);
      view.x = x - ((x - view.x) / view.scale) * scale;
      view.y = y - ((y - view.y) / view.scale) * scale;
      view.scale = scale;
      move(0, 0);
    }

    function move(dx, dy) {
      const least = 1 - view.scale;
      view.x = Math.min(Math.max(view.x + dx, least), 0);
      view.y = Math.min(Math.max(view.y + dy, least), 0);
      draw();
    }

    function inFrame(event) {
      const frame = event.target.closest && event.target.closest(".frame");
      if (!frame) return null;
      const box = frame.getBoundingClientRect();
      return {
        x: (event.clientX - box.left) / box.width,
        y: (event.clientY - box.top) / box.height,
        box,
      };
    }

    // The values of one pixel in every version: 8 bits each, or by how much it was changed.
    function tell(at) {
      for (const part of parts[view.place]) {
        const { naturalWidth: wide, naturalHeight: high } = part.image;
        const column = Math.floor(((at.x - view.x) / view.scale) * wide);
        const row = Math.floor(((at.y - view.y) / view.scale) * high);
        if (!(column >= 0 && row >= 0 && column < wide && row < high)) continue;
        const channels = part.pixel(column, row);
        const grey = part.image.dataset.grey === "true" ? channels.slice(0, 1) : channels;
        const said = part.change
          ? grey.map((value) =>
              ((value - 127.5) / factor)
                .toFixed(1)
                .replace(/^(?!-)/, "+")
                .replace("-", "−")
                .replace("−0.0", "+0.0"),
            )
          : grey;
        part.value.textContent = `(${column}, ${row}) ${said.join(" ")}`;
        const across = view.scale / wide,
          down = view.scale / high;
        part.dot.hidden = false;
        part.dot.style.left = `${100 * (view.x + column * across)}%`;
        part.dot.style.top = `${100 * (view.y + row * down)}%`;
        part.dot.style.width = `${100 * across}%`;
        part.dot.style.height = `${100 * down}%`;
      }
    }

    let held = null;
    root.addEventListener("pointerdown", (event) => {
      const at = inFrame(event);
      if (!at) return;
      root.focus({ preventScroll: true });
      tell(at);
      if (view.scale > 1) {
        held = { x: event.clientX, y: event.clientY };
        event.target.closest(".frame").setPointerCapture(event.pointerId);
        event.preventDefault();
      }
    });
    root.addEventListener("pointermove", (event) => {
      const at = inFrame(event);
      if (held && at) {
        move((event.clientX - held.x) / at.box.width, (event.clientY - held.y) / at.box.height);
        held = { x: event.clientX, y: event.clientY };
      } else if (at) tell(at);
    });
    ["pointerup", "pointercancel"].forEach((name) =>
      root.addEventListener(name, () => {
        held = null;
      }),
    );
    root.addEventListener("pointerleave", () =>
      parts[view.place].forEach(({ dot }) => {
        dot.hidden = true;
      }),
    );
    // The wheel belongs to the page until the images were clicked, or Ctrl is held.
    root.addEventListener(
      "wheel",
      (event) => {
        const at = inFrame(event);
        if (!at || !(event.ctrlKey || document.activeElement === root)) return;
        event.preventDefault();
        zoom(event.deltaY < 0 ? 1.25 : 0.8, at.x, at.y);
        tell(at);
      },
      { passive: false },
    );
    root.addEventListener("keydown", (event) => {
      const pan = {
        ArrowLeft: [0.2, 0],
        ArrowRight: [-0.2, 0],
        ArrowUp: [0, 0.2],
        ArrowDown: [0, -0.2],
      }[event.key];
      const keys = {
        ArrowLeft: () => go(-1),
        ArrowRight: () => go(1),
        "+": () => zoom(2),
        "=": () => zoom(2),
        "-": () => zoom(0.5),
        0: () => zoom(0),
      };
      const action = event.shiftKey && pan ? () => move(...pan) : keys[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    });
    draw();
  }

  document.querySelectorAll(".images").forEach(viewer);
})();
