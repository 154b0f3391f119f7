// Scans one site with MDN's HTTP Observatory, at ports of one's own, which its command does not take: HOST HTTP-PORT HTTPS-PORT PATH. The score is reckoned as it does.
import { retrieve } from "@mdn/mdn-http-observatory/src/retriever/retriever.js";
import { ALL_TESTS } from "@mdn/mdn-http-observatory/src/constants.js";
import { MINIMUM_SCORE_FOR_EXTRA_CREDIT } from "@mdn/mdn-http-observatory/src/grader/charts.js";
import { getScoreModifier } from "@mdn/mdn-http-observatory/src/grader/grader.js";

const [host, httpPort, httpsPort, path] = process.argv.slice(2);
const site = await retrieve(host, { httpPort, httpsPort, path });
if (!site.responses.auto) throw new Error("the site does not answer");
let without = 100, all = 100;
const tests = {};
for (const test of ALL_TESTS) {
  const found = test(site);
  const points = getScoreModifier(found.result);
  all += points;
  if (points < 0) without += points;
  tests[found.constructor.name] = { result: found.result, points };
}
console.log(JSON.stringify({ score: without >= MINIMUM_SCORE_FOR_EXTRA_CREDIT ? all : without, tests }));
