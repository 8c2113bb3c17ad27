"use strict";
// Of each group of panels one is shown: the one whose radio button is chosen, or that the address names.
// Without this script all panels are shown, one below the other.
for (const group of document.querySelectorAll("[data-switch]")) {
  const panels = [...document.querySelectorAll(`[data-panel="${group.dataset.switch}"]`)];
  const show = () => {
    const chosen = group.querySelector(":checked").value;
    for (const panel of panels) panel.hidden = panel.id !== chosen;
  };
  const follow = () => {
    const named = [...group.querySelectorAll("input")].find(input => "#" + input.value === location.hash);
    if (!named) return;
    named.checked = true;
    show();
    document.getElementById(named.value).scrollIntoView();
  };
  group.addEventListener("change", show);
  addEventListener("pageshow", show);
  addEventListener("hashchange", follow);
  group.hidden = false;
  show();
  follow();
}
