// Load the page's modules after the first paint: two dozen files, which would compete with it for the processor. All are asked
// for at once: on a slow line, one after the other would take as many round trips as the imports are deep.

function load() {
  for (const name of document.querySelector("meta[name=modules]").content.split(" ")) {
    const link = document.createElement("link");
    link.rel = "modulepreload";
    link.href = new URL(name, import.meta.url).href;
    document.head.append(link);
  }
  import("./app.js").catch(() => {
    const text = document.querySelector(".loading");
    text.textContent = "A part of the page did not arrive. Check that the service runs, then load the page again.";
    text.role = "alert";
  });
}

// A file that no view takes would replace the page.
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => {
    if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  });
}

if (document.hidden) load(); // a tab in the background paints nothing
else requestAnimationFrame(() => setTimeout(load));
