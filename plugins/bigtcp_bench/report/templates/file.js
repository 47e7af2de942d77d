// Light or dark as the browser prefers, and light on paper.
"use strict";
(() => {
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  const set = (dark) => document.documentElement.classList.toggle("dark", dark);
  set(prefers.matches);
  prefers.addEventListener("change", () => set(prefers.matches));
  window.addEventListener("beforeprint", () => {
    set(false);
    document.querySelectorAll("details[data-print]").forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => set(prefers.matches));
})();
