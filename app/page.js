() => {
  document.documentElement.lang = "en";
  // Where a job is, is read aloud.
  const live = () => document.querySelectorAll(".idp-status").forEach((place) => {
    place.setAttribute("role", "status");
    place.setAttribute("aria-live", "polite");
  });
  live();
  new MutationObserver(live).observe(document.body, { childList: true, subtree: true });
  // Before and after.
  document.addEventListener("input", (event) => {
    const slider = event.target.closest && event.target.closest(".idp-slider");
    if (slider) slider.style.setProperty("--cut", event.target.value + "%");
  });
  // Ctrl-Enter starts what the open tab is for.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const starts = [...document.querySelectorAll("#create-start, #edit-start, #identities-start, #compare-start")];
    const seen = starts.find((button) => button.offsetParent !== null);
    if (seen) { event.preventDefault(); seen.click(); }
  });
}
