// Draws every figure of the page and switches its views. Colours are names of CSS variables ("--accent"),
// looked up when drawing, so that the figures follow light and dark.
"use strict";
(() => {
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
    const view = figure.variants[shown[name] || 0];
    const style = getComputedStyle(document.documentElement);
    const layout = coloured({ ...view.layout, height: figure.height, autosize: true }, style);
    Plotly.react(place, coloured(view.data, style), layout, config);
    const words = place.parentElement.querySelector(".described");
    if (words) words.textContent = view.caption;
  };

  const choose = (name, number) => {
    shown[name] = number;
    for (const button of document.querySelectorAll(`[data-figure="${name}"] [data-variant]`)) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.variant) === number));
    }
    draw(name);
  };

  for (const frame of document.querySelectorAll("[data-figure]")) {
    const name = frame.dataset.figure;
    for (const button of frame.querySelectorAll("[data-variant]")) {
      button.addEventListener("click", () => choose(name, Number(button.dataset.variant)));
    }
    for (const list of frame.querySelectorAll("select")) {
      list.addEventListener("change", () => choose(name, Number(list.value)));
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
