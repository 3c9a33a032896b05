// A whole session by the `ws` package: handshake, a question that the node answers, farewell.
//   node session.mjs FOLDER_OF_WS TASK
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [folder, text] = process.argv.slice(2);
const task = JSON.parse(text);
const WebSocket = createRequire(folder + "/")("ws");
const bytes = (hex) => Buffer.from(hex, "hex");
const fail = (why) => {
  console.error(`OpenSSL ${process.versions.openssl}: ${why}`);
  process.exit(1);
};

const { url, localAddress, perMessageDeflate, ecdhCurve, ciphers } = task;
const given = Object.fromEntries(
  Object.entries({ localAddress, perMessageDeflate, ecdhCurve, ciphers }).filter(([, value]) => value !== undefined),
);
const socket = new WebSocket(url, {
  cert: readFileSync(task.cert),
  key: readFileSync(task.key),
  rejectUnauthorized: false,
  ...given,
});
let answers = 0;
socket.on("open", () => socket.send(bytes(task.handshake)));
socket.on("message", (data) => {
  answers += 1;
  if (answers === 1) return socket.send(bytes(task.question));
  if (!data.equals(bytes(task.answer))) fail(`no answer of the node but ${data.toString("hex")}`);
  socket.close(1000);
});
socket.on("error", (error) => fail(error.message));
socket.on("close", (code) => (answers === 2 && code === 1000 ? process.exit(0) : fail(`closed with ${code} after ${answers}`)));
setTimeout(() => fail("no answer in time"), 40000);
