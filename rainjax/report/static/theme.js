// Light or dark: as the system says, until the button is pressed.
(() => {
  "use strict";
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () =>
    (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function changed() {
    button.textContent = dark() ? "☀ Light" : "☾ Dark";
    window.dispatchEvent(new Event("rainjax-theme")); // what is drawn on a canvas is drawn again
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    changed();
  });
  system.addEventListener("change", changed);
  changed();
})();
