// Draws the figures of this page with Plotly. Colors in their data are names of CSS custom properties; they are looked
// up each time, so that the figures follow the page into dark mode and onto paper.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const touch = matchMedia("(pointer: coarse)").matches;
  const reading = { displayModeBar: false, responsive: true, doubleClick: "reset" };

  function fill(value, style) {
    if (typeof value === "string" && value.startsWith("--")) return style.getPropertyValue(value).trim() || value;
    if (Array.isArray(value)) return value.map((item) => fill(item, style));
    if (value !== null && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item, style)]));
    return value;
  }

  function dress(layout, narrow) {
    const dressed = {
      ...layout,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: narrow ? 11 : 12, color: "--soft" },
      hoverlabel: { bgcolor: "--surface", bordercolor: "--rule", font: { color: "--ink", size: 12 }, align: "left" },
      dragmode: touch ? false : "zoom",
    };
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis/.test(key)) continue;
      dressed[key] = { gridcolor: "--grid", linecolor: "--rule", tickcolor: "--rule", ...layout[key] };
      if (narrow && layout[key].tickfont) dressed[key].tickfont = { ...layout[key].tickfont, size: 9 };
      if (touch) dressed[key].fixedrange = true;
    }
    return dressed;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const paper = document.documentElement.classList.contains("paper");
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = figures[place.dataset.figure];
      const narrow = place.clientWidth < 520;
      const made = fill({ data: figure.data, layout: dress(figure.layout, narrow) }, style);
      made.layout.width = paper ? place.clientWidth : undefined;
      Plotly.react(place, made.data, made.layout, reading);
      if (!paper) Plotly.Plots.resize(place);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // On paper the page is light and as wide as `html.paper` says; the figures have to be drawn for that beforehand.
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    document.documentElement.classList.add("paper");
    draw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    draw();
  });
})();
