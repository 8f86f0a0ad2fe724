// Keeps the frame of the labeller's pages and the static files at hand, so that work goes on without a connection.
// Nothing of the API is kept here.  While the server answers, what it has is shown; what is kept is for when it does not.
// The server puts the version and the list of files before this text; a new version throws the old one's files away.

const CACHE = `handrail-${VERSION}`;
const PATIENCE = 5000; // ms before a page is shown from what is kept

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" })))).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith("handrail-") && name !== CACHE);
  event.waitUntil(caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin) return;
  if (url.pathname.startsWith("/static/")) event.respondWith(fetch(event.request).catch(() => kept(url.pathname)));
  else if (event.request.mode === "navigate" && url.pathname === "/") event.respondWith(page(event.request, "/shell/home"));
  else if (event.request.mode === "navigate" && /^\/tasks\/\d+$/.test(url.pathname)) event.respondWith(page(event.request, "/shell/desk"));
});

const kept = async (path) => (await caches.match(path, { cacheName: CACHE })) ?? Response.error();

async function page(request, shell) {
  const late = new Promise((_, reject) => setTimeout(reject, PATIENCE));
  try {
    const found = await Promise.race([fetch(request), late]);
    return found.status >= 500 ? await kept(shell) : found;
  } catch {
    return kept(shell);
  }
}
