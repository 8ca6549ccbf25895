/* What scrolls is reached by keys, and the buttons over each code block are a landmark with a name of its own. */
const mend = () => {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, pre > code"))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  document
    .querySelectorAll(".md-code__nav")
    .forEach((part, place) => part.setAttribute("aria-label", `Buttons of code block ${place + 1}`));
};
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("load", mend);
addEventListener("resize", mend);
