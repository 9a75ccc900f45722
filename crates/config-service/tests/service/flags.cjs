// Flags of two tenants through the unmodified provider of flagd, evaluated at
// the server and in this process; and again when those of the first have changed.
// Arguments: address, key of the first tenant, key of the second. Standard input:
// one line of JSON, the questions. Standard output: two lines of answers.
'use strict';

const { OpenFeature, ProviderEvents } = require('@openfeature/server-sdk');
const { FlagdProvider } = require('@openfeature/flagd-provider');

const [address, ...keys] = process.argv.slice(2);
const tenants = ['acme', 'globex'];
const modes = ['in-process', 'rpc'];
const place = { host: address.split(':')[0], port: Number(address.split(':')[1]), tls: false, deadlineMs: 10000, streamDeadlineMs: 0 };

function provider(mode, key) {
  // What is evaluated at the server says the key with its stream too, which has no selector.
  const authority = mode === 'rpc' ? { defaultAuthority: key } : {};
  return new FlagdProvider({ ...place, ...authority, resolverType: mode, selector: key });
}

const defaults = { boolean: false, string: 'built in', number: -1, object: { built: 'in' } };

async function ask(client, { flag, type, context }) {
  const method = `get${type[0].toUpperCase()}${type.slice(1)}Details`;
  const { value, variant, errorCode, flagMetadata } = await client[method](flag, defaults[type], context);
  return { flag, value, variant: variant ?? null, errorCode: errorCode ?? null, scope: flagMetadata.scope ?? null };
}

async function answers(questions) {
  const all = {};
  for (const tenant of tenants) {
    for (const mode of modes) {
      const client = OpenFeature.getClient(`${tenant} ${mode}`);
      all[`${tenant} ${mode}`] = await Promise.all(questions.map((question) => ask(client, question)));
    }
  }
  console.log(JSON.stringify(all));
}

async function main() {
  const questions = await new Promise((resolve) => {
    let text = '';
    process.stdin.on('data', (chunk) => {
      text += chunk;
      if (text.includes('\n')) resolve(JSON.parse(text.split('\n')[0]));
    });
  });
  for (const [index, tenant] of tenants.entries()) {
    for (const mode of modes) {
      await OpenFeature.setProviderAndWait(`${tenant} ${mode}`, provider(mode, keys[index]));
    }
  }
  const changed = modes.map(
    (mode) =>
      new Promise((resolve) => {
        OpenFeature.getClient(`acme ${mode}`).addHandler(ProviderEvents.ConfigurationChanged, resolve);
      }),
  );
  await answers(questions);
  await Promise.all(changed);
  await answers(questions);
  await OpenFeature.close();
  process.exit(0);
}

setTimeout(() => {
  console.error('nothing was heard of the change');
  process.exit(1);
}, 30000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
