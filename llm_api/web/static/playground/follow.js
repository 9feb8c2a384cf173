// The page's end stays in sight while an answer grows, unless its reader has gone elsewhere.

const NEAR = 80; // pixels

let follows = true;

const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });

export function follow() {
  follows = true;
  toEnd();
}

export function startFollowing(...growing) {
  let place = scrollY;
  addEventListener("scroll", () => {
    const left = document.documentElement.scrollHeight - innerHeight - scrollY;
    // up by however little is away: the first step of a wheel that rolls smoothly is a few pixels
    follows = left < 1 || (scrollY >= place && (follows || left < NEAR));
    place = scrollY;
  }, { passive: true });
  const observer = new ResizeObserver(() => {
    if (!follows) return;
    toEnd();
    place = scrollY; // a page that shrinks moves too, and nobody went elsewhere
  });
  for (const each of growing) observer.observe(each);
}
