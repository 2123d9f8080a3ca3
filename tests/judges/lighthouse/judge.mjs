// Lighthouse's accessibility and best practices for pages behind a sign-in.
//   node judge.mjs
// Standard input: {"chromium", "origin", "cookie", "pages": [{"name", "path"}]}. A line of JSON a page comes back:
// {"name", "accessibility", "best-practices", "failed": [...]}, the scores from 0 to 100.
import { readFileSync } from "node:fs";
import { launch } from "chrome-launcher";
import lighthouse from "lighthouse";

const CATEGORIES = ["accessibility", "best-practices"];
const { chromium, origin, cookie, pages } = JSON.parse(readFileSync(0, "utf8"));

const browser = await launch({
  chromePath: chromium,
  logLevel: "silent",
  // As root in containers no sandbox can be made; the pages are our own, with a certificate of the installation's own authority.
  chromeFlags: ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--ignore-certificate-errors"],
});
try {
  for (const { name, path } of pages) {
    const { lhr } = await lighthouse(origin + path, {
      port: browser.port,
      logLevel: "silent",
      onlyCategories: CATEGORIES,
      extraHeaders: cookie ? { Cookie: cookie } : {},
      formFactor: "desktop",
      screenEmulation: { mobile: false, width: 1440, height: 900, deviceScaleFactor: 1, disabled: false },
      throttlingMethod: "provided",
      disableFullPageScreenshot: true,
      // The page that says that there is none is judged too.
      ignoreStatusCode: true,
    });
    if (lhr.runtimeError) throw new Error(`${name}: ${lhr.runtimeError.code} ${lhr.runtimeError.message}`);
    const answer = { name, shown: lhr.finalDisplayedUrl, failed: [] };
    for (const id of CATEGORIES) {
      const category = lhr.categories[id];
      if (category.score === null) throw new Error(`${name}: no score of ${id}`);
      answer[id] = Math.round(category.score * 100);
      for (const { id: audit, weight } of category.auditRefs) {
        const { score, scoreDisplayMode, title, details } = lhr.audits[audit];
        if (weight > 0 && scoreDisplayMode === "error") throw new Error(`${name}: ${audit} could not be judged`);
        if (weight > 0 && score !== null && score < 1) {
          const what = (details?.items ?? []).slice(0, 3).map((item) => item.node?.snippet ?? item.description ?? item.issueType ?? "");
          answer.failed.push(`${audit}: ${title} ${what.join(" | ").slice(0, 400)}`.trim());
        }
      }
    }
    console.log(JSON.stringify(answer));
  }
} finally {
  browser.kill();
}
