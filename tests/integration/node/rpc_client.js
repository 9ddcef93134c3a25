// SPDX-License-Identifier: Apache-2.0
// A client of sofa-rpc-node, as an application uses it: rpc_client.js bolt|dubbo HOST PORT [CALLS|until NAME]
// Prints what the calls gave as JSON; with CALLS or a NAME, only who answered: each of so many, or all until it was NAME.
'use strict';

const { RpcClient } = require('sofa-rpc-node').client;
const { INTERFACE, VERSION, protocol } = require('./services');
const { who } = require('./who');

const [ name, host, port, ...words ] = process.argv.slice(2);
const quiet = { info() {}, warn: console.warn, error: console.error };

async function message(promise) {
  try {
    return await promise;
  } catch (error) {
    return { error: error.message.split(': ').pop() }; // Bolt's tells its class, too
  }
}

async function all(invoke) {
  const long = 'x'.repeat(200000);
  const many = [ ...Array(100).keys() ];
  return {
    echo: await invoke('echo', 'hello'),
    unicode: await invoke('echo', 'grüße 你好 🙂'),
    long: (await invoke('echo', long)) === long,
    sum: await invoke('sum', 40, 2),
    // The later ones are answered before the earlier ones.
    many: await Promise.all(many.map(i => invoke('slow', 100 - i, `call ${i}`))),
    fail: await message(invoke('fail', 'on purpose')),
  };
}

async function main() {
  const client = new RpcClient({ logger: quiet, protocol: protocol(name) });
  const consumer = client.createConsumer({
    interfaceName: INTERFACE, version: VERSION, serverHost: `${host}:${port}`, responseTimeout: 10000,
  });
  await consumer.ready();
  const invoke = (method, ...args) => consumer.invoke(method, args);
  const answer = words.length ? await who(() => invoke('who'), words) : await all(invoke);
  process.stdout.write(JSON.stringify(answer) + '\n', () => process.exit(0));
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
