// Everything in its order; the plots last, because they take longest.
function followSections() {
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      links.forEach((link, id) => (id === entry.target.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  all("main section").forEach((section) => seen.observe(section));
}

async function start() {
  await unpack();
  startAnswer();
  startPanes();
  startViewer();
  startTable();
  startParallel();
  await loadLibrary();
  drawAll();
  startFront();
  startHeatMaps();
  startTheme();
  followSections();
  document.documentElement.dataset.ready = "true";
}

start();
