// Runs in the head, before anything is drawn: the theme that was chosen here before, if any.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("innerpo-theme"); } catch { /* a page from disk may have no storage */ }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
