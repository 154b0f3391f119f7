"use strict";
// The smallest web app that has a dependency: it tells for how long it has been running.
const http = require("node:http");
const ms = require("ms");

const greeting = process.env.GREETING || "Hello";
const server = http.createServer((req, res) => {
  if (req.url === "/healthz") return res.end("ok\n");
  console.log(`${req.method} ${req.url}`);
  res.setHeader("Content-Type", "text/plain; charset=utf-8");
  res.end(`${greeting}, world! Up for ${ms(Math.round(process.uptime() * 1000))}.\n`);
});

server.listen(process.env.PORT || 8080, () => console.log(`listening on ${server.address().port}`));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
