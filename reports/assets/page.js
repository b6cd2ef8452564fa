// Draws every figure of the page and switches its views; shows what works with a script alone. Colours are names of CSS variables ("--accent"),
// looked up when drawing, so that the figures follow light and dark.
"use strict";
(() => {
  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const shown = {};
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };

  const coloured = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("--") ? style.getPropertyValue(value).trim() || value : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    }
    return value;
  };

  const draw = (name) => {
    const place = document.getElementById(`figure-${name}`);
    const figure = figures[name];
    const view = figure.views[shown[name] || 0];
    const style = getComputedStyle(document.documentElement);
    const layout = coloured({ ...view.layout, height: figure.height, autosize: true }, style);
    const data = coloured(view.data, style);
    // A narrow drawing has no room for the name at the left of the front.
    if (place.clientWidth < 480) for (const trace of data) if (trace.name === "recommended") trace.textposition = "top right";
    Plotly.react(place, data, layout, config);
  };

  const choose = (name, number) => {
    shown[name] = number;
    for (const button of document.querySelectorAll(`[data-figure="${name}"] [data-view]`)) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.view) === number));
    }
    draw(name);
  };

  for (const frame of document.querySelectorAll("[data-figure]")) {
    const name = frame.dataset.figure;
    for (const button of frame.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => choose(name, Number(button.dataset.view)));
    }
    draw(name);
  }
  dark.addEventListener("change", () => Object.keys(figures).forEach(draw));

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
      } catch {
        // Pages opened from a file may not write the clipboard: select the text instead.
        getSelection().selectAllChildren(code);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    });
  }
})();
