/* What scrolls is reached by keys; the search and the buttons over each code block have names of their own. */
const mend = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, pre > code"))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  document
    .querySelectorAll(".md-code__nav")
    .forEach((part, place) => part.setAttribute("aria-label", `Buttons of code block ${place + 1}`));
};
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("load", mend);
addEventListener("resize", mend);
