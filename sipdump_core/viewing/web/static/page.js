// Niceties of the page of a call, which works without: keys to go through its messages.
"use strict";

(() => {
  const sections = [...document.querySelectorAll("section.message")];
  const open = () => sections.findIndex((one) => "#" + one.id === location.hash);
  const go = (number) => {
    if (number >= 0 && number < sections.length) {
      location.hash = sections[number].id;
      const arrow = document.querySelector(`.ladder a[href="#${sections[number].id}"]`);
      if (arrow) arrow.scrollIntoView({ block: "nearest" });
    }
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const at = open();
    if (event.key === "Escape" && at >= 0) location.hash = "ladder";
    if (event.key === "j") go(at + 1);
    if (event.key === "k" && at > 0) go(at - 1);
  });
})();
