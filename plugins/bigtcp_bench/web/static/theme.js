// Light or dark, as Airflow around the frame is; the frame cannot see it by itself. Runs before anything is drawn.
"use strict";
(() => {
  const own = document.documentElement;
  const set = (dark) => own.classList.toggle("dark", dark);
  let around = null;
  try {
    around = window.parent === window ? null : window.parent.document.documentElement;
  } catch {
    // Framed by a page that may not be looked into: then the browser's own setting counts.
  }
  if (around) {
    const copy = () => set(around.classList.contains("dark"));
    copy();
    new MutationObserver(copy).observe(around, {attributes: true, attributeFilter: ["class"]});
  } else {
    const prefers = window.matchMedia("(prefers-color-scheme: dark)");
    set(prefers.matches);
    prefers.addEventListener("change", () => set(prefers.matches));
  }
})();
