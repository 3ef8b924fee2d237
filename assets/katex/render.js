// Sphinx leaves equations as \(...\) and \[...\] in elements of class "math"; KaTeX draws them in place.
document.querySelectorAll(".math").forEach(element =>
  renderMathInElement(element, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
    throwOnError: false,
  }));

// An equation that is too long scrolls, by keyboard too.
function reach() {
  document.querySelectorAll(".katex-display").forEach(element => {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  });
}
document.fonts.ready.then(reach);
addEventListener("resize", reach);
