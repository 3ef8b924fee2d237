// Sphinx leaves equations as \(...\) and \[...\] in elements of class "math"; KaTeX draws them in place.
document.querySelectorAll(".math").forEach(element =>
  renderMathInElement(element, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
    // No line ends in the middle of p(z | k).
    macros: { "\\mid": "\\mathrel{\\vert}\\nobreak" },
    throwOnError: false,
  }));

// A browser may begin a line with the full stop after an equation. One that cannot break itself holds on to what follows it.
document.querySelectorAll("span.math").forEach(element => {
  const next = element.nextSibling;
  const stop = next?.nodeType === Node.TEXT_NODE && next.data.match(/^[.,;:!?)\]’”'-]+/);
  if (!stop || element.querySelectorAll(".base").length !== 1) return;
  next.splitText(stop[0].length);
  const both = document.createElement("span");
  both.style.whiteSpace = "nowrap";
  element.before(both);
  both.append(element, next);
});

// An equation that is too long scrolls, by keyboard too.
function reach() {
  document.querySelectorAll(".katex-display").forEach(element => {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  });
}
document.fonts.ready.then(reach);
addEventListener("resize", reach);
