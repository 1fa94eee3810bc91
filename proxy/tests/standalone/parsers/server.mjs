// An application of Node's http that answers each request with what it saw. Prints its port.
import { createServer } from "node:http";

let count = 0;
const server = createServer((request, response) => {
  const body = [];
  request.on("data", (part) => body.push(part));
  request.on("end", () => {
    if (request.url === "/count-of-requests") {
      response.end(String(count));
      return;
    }
    count += 1;
    const raw = request.rawHeaders;
    const fields = [];
    let host = "";
    for (let i = 0; i < raw.length; i += 2) {
      const name = raw[i].toLowerCase();
      if (name === "host") host = raw[i + 1];
      else fields.push([name, Buffer.from(raw[i + 1], "latin1").toString("hex")]);
    }
    response.setHeader("x-seen", "1");
    const { method, url } = request;
    response.end(JSON.stringify({ method, target: url, host, fields, body: Buffer.concat(body).toString("hex") }));
  });
  request.on("error", () => response.destroy());
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
