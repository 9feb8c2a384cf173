// Runs after each request of the collection. tools/postman.py puts it there; what it adds to each request by itself is
// the status, the headers and the body that the description promises.
const headers = pm.response.headers;
const id = headers.get('X-Request-ID');
pm.test('X-Request-ID is there', () => pm.expect(id).to.be.a('string').and.not.empty);

if (pm.response.code >= 400) {
    pm.test('an error has its envelope', () => {
        const body = pm.response.json();
        pm.expect(body.error).to.have.all.keys('message', 'type', 'code', 'param');
        pm.expect(body.request_id).to.eql(id);
    });
}

const checkStream = (texts, ends) => {
    pm.test('no proxy holds it back', () => pm.expect(headers.get('X-Accel-Buffering')).to.eql('no'));
    pm.test('it has a text', () => pm.expect(texts.join('')).to.not.be.empty);
    pm.test('it ends once, at its end', () => {
        pm.expect(ends.pop()).to.be.oneOf(['stop', 'length']);
        pm.expect(ends.filter(Boolean)).to.be.empty;
    });
};

const type = (headers.get('Content-Type') || '').split(';')[0];
// By what the streams of the other vendors' routes end.
const ENDS = {
    '/v1/messages': /"type": "message_stop"/,
    '/v1/responses': /"type": "response\.(completed|incomplete)"/,
    '/api/chat': /"done": true/,
    '/api/generate': /"done": true/,
};
const theirs = Object.keys(ENDS).find(path => pm.request.url.getPath().endsWith(path));
const isStream = type === 'application/x-ndjson' || type === 'text/event-stream';
if (isStream && theirs) {
    pm.test('no proxy holds it back', () => pm.expect(headers.get('X-Accel-Buffering')).to.eql('no'));
    pm.test('it ends', () => pm.expect(pm.response.text().trim().split('\n').pop()).to.match(ENDS[theirs]));
} else if (type === 'application/x-ndjson') {
    const lines = pm.response.text().trim().split('\n').map(line => JSON.parse(line));
    checkStream(lines.map(line => line.response), lines.map(line => line.finish_reason));
    pm.test('the last line says that it is done', () => pm.expect(lines.pop().done).to.eql(true));
} else if (type === 'text/event-stream') {
    const events = pm.response.text().trim().split('\n\n').filter(event => !event.startsWith(':'));
    pm.test('the last event is [DONE]', () => pm.expect(events.pop()).to.eql('data: [DONE]'));
    const objects = events.map(event => JSON.parse(event.replace(/^data: /, '')));
    if ((JSON.parse(pm.request.body.raw).stream_options || {}).include_usage) {
        pm.test('the usage comes last', () => pm.expect(objects.pop().usage.total_tokens).to.be.above(0));
    }
    const choices = objects.map(object => object.choices[0]);
    checkStream(choices.map(choice => choice.delta ? choice.delta.content : choice.text),
        choices.map(choice => choice.finish_reason));
}

const more = {
    'POST /generate: a prompt': body => pm.expect(body).to.have.all.keys('response'),
    'POST /generate: with details': body => {
        pm.expect(body.details.request_id).to.eql(id);
        pm.expect(body.details.fallback).to.eql(headers.has('X-LLM-Fallback'));
    },
    'an id of your own': () => pm.expect(id).to.eql('postman-1.a_b'),
    'GET /health': body => {
        pm.expect(body.timestamp).to.be.closeTo(Date.now() / 1000, 60);
        pm.expect('reason' in body).to.eql(body.status !== 'healthy');
    },
    'GET /config': body => {
        const names = Object.keys(body);
        pm.expect(names.slice(0, 4)).to.eql(['backend', 'ollama_model', 'ollama_url', 'log_file']);
        pm.expect(names.filter(name => name.includes('key'))).to.be.empty;
    },
    'GET /v1/models': body => pm.collectionVariables.set('model', body.data[0].id),
    'GET /v1/models/{{model}}': body => pm.expect(body.id).to.eql(pm.collectionVariables.get('model')),
    '404 unless the stub answers': body => {
        const stub = headers.get('X-LLM-Backend') === 'stub';
        pm.response.to.have.status(stub ? 200 : 404);
        if (!stub) pm.expect(body.error.code).to.eql('model_not_found');
    },
    '405 GET /generate': () => pm.expect(headers.get('Allow')).to.include('POST'),
}[pm.info.requestName];
if (more) pm.test('and what the description does not say', () => more(pm.response.json()));
