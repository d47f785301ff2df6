// Forms from JSON schemas: a control for each property, its doc, and only what was changed is read.

import { h, prose, shown } from './dom.js';

let count = 0;

// The schema behind references and behind "or null"; whether null is allowed is kept as `nullable`.
export function resolve(root, schema) {
  let found = schema;
  let nullable = false;
  for (let depth = 0; depth < 8; depth += 1) {
    if (found.$ref) {
      const name = found.$ref.split('/').at(-1);
      found = { ...root.$defs?.[name], name };
    } else if (found.anyOf?.some((one) => one.type === 'null')) {
      nullable = true;
      const others = found.anyOf.filter((one) => one.type !== 'null');
      found = others.length === 1 ? others[0] : { anyOf: others };
    } else if (Array.isArray(found.type)) {
      nullable ||= found.type.includes('null');
      const types = found.type.filter((one) => one !== 'null');
      found = { ...found, type: types.length === 1 ? types[0] : 'any' };
    } else {
      break;
    }
  }
  return { ...found, nullable };
}

// The values of an enumeration with their docs; null for anything else.
export function choices(schema) {
  if (schema.enum) return schema.enum.map((value) => ({ value, doc: '' }));
  if (schema.oneOf?.every((one) => one.const !== undefined || one.enum)) {
    return schema.oneOf.flatMap((one) => (one.enum ?? [one.const]).map((value) => ({ value, doc: one.description ?? '' })));
  }
  return null;
}

const isList = (schema) => schema.type === 'array' && ['string', 'integer', 'number'].includes(schema.items?.type);

export function kind(root, property) {
  const schema = resolve(root, property);
  if (schema.name === 'Named') return 'named';
  if (choices(schema)) return 'choice';
  if (schema.type === 'boolean') return schema.nullable ? 'maybe' : 'boolean';
  if (['integer', 'number', 'string'].includes(schema.type)) return schema.type;
  if (isList(schema)) return 'list';
  const either = schema.anyOf?.map((one) => resolve(root, one));
  if (either?.some(isList) && either.some((one) => one.type === 'string')) return 'list or text';
  return 'json';
}

const split = (text, integers) => {
  const parts = text.split(',').map((part) => part.trim()).filter(Boolean);
  if (!integers) return parts;
  const numbers = parts.map(Number);
  if (numbers.some((value) => !Number.isInteger(value))) throw new Error('expected whole numbers parted by commas');
  return numbers;
};

const written = (value) => {
  if (value === null || value === undefined) return '';
  if (Array.isArray(value) && value.every((one) => typeof one !== 'object')) return value.join(', ');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
};

// How each kind is shown, set and read. `read` throws with what was expected.
function control(type, schema, context) {
  const input = (properties) => h('input', { autocomplete: 'off', spellcheck: 'false', ...properties });
  const text = (read) => {
    const element = input({ type: 'text' });
    return { element, set: (value) => { element.value = written(value); }, read: () => read(element.value.trim()) };
  };
  const select = (values) => {
    const element = h('select', {}, values.map((one) => h('option', { value: JSON.stringify(one.value) }, one.text ?? String(one.value))));
    return { element, set: (value) => { element.value = JSON.stringify(value ?? null); }, read: () => JSON.parse(element.value) };
  };
  switch (type) {
    case 'choice': {
      const unset = schema.nullable ? [{ value: null, text: 'unset' }] : [];
      return select([...unset, ...choices(schema)]);
    }
    case 'maybe':
      return select([{ value: null, text: 'by itself' }, { value: true, text: 'yes' }, { value: false, text: 'no' }]);
    case 'named': {
      const names = select((context.optimizers ?? []).map((name) => ({ value: name })));
      let options = {};
      return {
        element: names.element,
        set: (value) => { names.set(value.name); options = value; },
        read: () => (options.name === names.read() ? options : { name: names.read() }),
      };
    }
    case 'boolean': {
      const element = input({ type: 'checkbox' });
      return { element, set: (value) => { element.checked = value === true; }, read: () => element.checked };
    }
    case 'integer':
    case 'number': {
      const step = type === 'integer' ? 1 : 'any';
      const element = input({ type: 'number', step, min: schema.minimum, max: schema.maximum, required: !schema.nullable });
      const read = () => {
        if (element.value === '' && schema.nullable) return null;
        if (!Number.isFinite(element.valueAsNumber)) throw new Error('expected a number');
        return element.valueAsNumber;
      };
      return { element, set: (value) => { element.value = written(value); }, read };
    }
    case 'string':
      return text((value) => (value === '' && schema.nullable ? null : value));
    case 'list': {
      const integers = schema.items.type !== 'string';
      return text((value) => (value === '' && schema.nullable ? null : split(value, integers)));
    }
    case 'list or text':
      // A pattern may hold commas inside brackets; a plain list holds words only.
      return text((value) => {
        if (value === '') return schema.nullable ? null : [];
        return /^[\w.]+(\s*,\s*[\w.]+)*$/.test(value) && value !== 'all-linear' ? split(value) : value;
      });
    default:
      return text((value) => {
        if (value === '') return schema.nullable ? null : schema.type === 'array' ? [] : {};
        try {
          return JSON.parse(value);
        } catch {
          throw new Error('expected JSON, for instance {"q_proj": 4}');
        }
      });
  }
}

function field(root, name, property, standard, context) {
  const schema = resolve(root, property);
  const type = kind(root, property);
  const made = control(type, schema, context);
  count += 1;
  made.element.id = `field-${count}`;
  made.element.name = `${context.prefix}${name}`;
  const usual = type === 'boolean' ? (standard ? 'on' : 'off') : shown(type === 'named' ? standard?.name : standard);
  const listed = type === 'list' || type === 'list or text' ? ' Parted by commas.' : '';
  const doc = h('span', { class: 'doc', id: `doc-${count}` }, prose(`${property.description ?? ''}${listed}`), usual === '–' ? '' : ` Default: ${usual}.`);
  made.element.setAttribute('aria-describedby', doc.id);
  const check = type === 'boolean';
  const title = context.dotted ? made.element.name : name;
  const label = check ? h('label', {}, made.element, title) : h('label', { for: made.element.id }, title);
  const element = h('div', { class: check ? 'field check' : 'field' }, label, check ? null : made.element, doc);
  made.set(standard);
  const before = JSON.stringify(made.read());
  const read = () => {
    made.element.setCustomValidity('');
    try {
      const value = made.read();
      return { value, changed: JSON.stringify(value) !== before };
    } catch (error) {
      made.element.setCustomValidity(error.message);
      return { value: null, changed: true };
    }
  };
  const mark = () => element.classList.toggle('changed', read().changed);
  element.addEventListener('input', mark);
  element.addEventListener('change', mark);
  const set = (value) => {
    made.set(value);
    mark();
  };
  return { name, element, read, set };
}

// A form part for the properties of `schema`: `only` or all but `except`, in the schema's order.
export function form(root, schema, defaults, { only, except = [], prefix = '', dotted = false, optimizers } = {}) {
  const names = Object.keys(schema.properties ?? {});
  const wanted = only ?? names.filter((name) => !except.includes(name));
  const context = { prefix, dotted, optimizers };
  const fields = wanted.map((name) => field(root, name, schema.properties[name], defaults?.[name], context));
  return {
    element: h('div', { class: 'fields' }, fields.map((one) => one.element)),
    read: () => Object.fromEntries(fields.flatMap((one) => {
      const { value, changed } = one.read();
      return changed ? [[one.name, value]] : [];
    })),
    set: (values) => {
      for (const one of fields) if (values?.[one.name] !== undefined) one.set(values[one.name]);
    },
  };
}
