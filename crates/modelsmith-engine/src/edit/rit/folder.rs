//! A revision engine on disk: `revisions.jsonl` (the store), `settings.json`, and `vectors.safetensors` where
//! vectors are dense. Vectors of weighted terms are made anew from the store, which is as quick as reading them.

use super::embed::{Embedder, Vector};
use super::engine::{Engine, Settings};
use super::store::Store;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{
    DType, Reader, View, atomic_json, make_folder, read_json, write_safetensors,
};
use std::collections::BTreeMap;
use std::path::Path;

const REVISIONS: &str = "revisions.jsonl";
const SETTINGS: &str = "settings.json";
const VECTORS: &str = "vectors.safetensors";

/// Opens the engine of a folder, which is empty at first. Stored vectors are used where they are of this
/// embedder.
///
/// # Errors
/// Files that are malformed; what the embedder refuses.
pub fn open_engine<'a>(folder: &Path, embedder: Box<dyn Embedder + 'a>) -> Result<Engine<'a>> {
    make_folder(folder)?;
    let store = Store::open(&folder.join(REVISIONS))?;
    let path = folder.join(SETTINGS);
    let settings = match path.is_file() {
        true => read_json(&path)?,
        false => Settings::default(),
    };
    let vectors = read_vectors(&folder.join(VECTORS), &embedder.name())?;
    Engine::with_vectors(store, embedder, settings, vectors)
}

/// Writes settings and vectors of an engine to its folder; the store writes itself at each change.
///
/// # Errors
/// Files that cannot be written.
pub fn save_engine(folder: &Path, engine: &Engine<'_>) -> Result<()> {
    atomic_json(folder.join(SETTINGS), &engine.settings)?;
    write_vectors(&folder.join(VECTORS), engine)
}

fn write_vectors(path: &Path, engine: &Engine<'_>) -> Result<()> {
    let dense = engine
        .vectors()
        .iter()
        .filter_map(|(id, vector)| match vector {
            Vector::Dense(values) if !values.is_empty() => Some((*id, values)),
            _ => None,
        });
    let dense: Vec<(u64, &Vec<f32>)> = dense.collect();
    let Some(width) = dense.first().map(|(_, values)| values.len()) else {
        return Ok(());
    };
    let numbers: Vec<u8> = dense.iter().flat_map(|(id, _)| id.to_le_bytes()).collect();
    let values = dense.iter().flat_map(|(_, values)| values.iter());
    let values: Vec<u8> = values.flat_map(|x| x.to_le_bytes()).collect();
    let (rows, shape) = ([dense.len()], [dense.len(), width]);
    let tensors = [
        View {
            name: "ids",
            dtype: DType::U64,
            shape: &rows,
            bytes: &numbers,
        },
        View {
            name: "vectors",
            dtype: DType::F32,
            shape: &shape,
            bytes: &values,
        },
    ];
    let metadata = BTreeMap::from([("embedder".to_owned(), engine.embedder_name())]);
    write_safetensors(path, &tensors, &metadata)
}

fn read_vectors(path: &Path, embedder: &str) -> Result<Vec<(u64, Vector)>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let reader = Reader::open(path)?;
    if reader.metadata().get("embedder").map(String::as_str) != Some(embedder) {
        return Ok(Vec::new());
    }
    let (ids, vectors) = (reader.view("ids")?, reader.view("vectors")?);
    let width = vectors.shape.last().copied().unwrap_or(0);
    if ids.dtype != DType::U64 || width == 0 || ids.shape.first() != vectors.shape.first() {
        let problem = "holds no numbers (U64) with a vector each; remove it, it is made anew";
        return Err(Error::file(path, problem));
    }
    let numbers = ids.bytes.chunks_exact(8).map(|bytes| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        u64::from_le_bytes(number)
    });
    let values = reader.f32("vectors")?;
    let rows = values
        .chunks_exact(width)
        .map(|row| Vector::Dense(row.to_vec()));
    Ok(numbers.zip(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::rit::{Revision, TermEmbedder};
    use std::cell::Cell;
    use std::rc::Rc;

    /// Lengths of texts, and how many were asked for.
    struct Lengths(Rc<Cell<usize>>, &'static str);

    impl Embedder for Lengths {
        fn name(&self) -> String {
            self.1.into()
        }

        fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>> {
            self.0.set(self.0.get() + texts.len());
            let vector = |text: &&str| Vector::dense(vec![1.0, text.len() as f32]);
            Ok(texts.iter().map(vector).collect())
        }
    }

    fn revision(question: &str) -> Revision {
        Revision {
            question: question.into(),
            answer: "Yes".into(),
            ..Revision::default()
        }
    }

    #[test]
    fn an_engine_comes_back_and_embeds_only_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Rc::new(Cell::new(0));
        let open = |name| open_engine(dir.path(), Box::new(Lengths(asked.clone(), name))).unwrap();
        let mut engine = open("lengths");
        engine.settings.threshold = 0.25;
        engine
            .extend([
                revision("a"),
                revision("four"),
                revision("seventeen letters"),
            ])
            .unwrap();
        engine.remove(2).unwrap();
        save_engine(dir.path(), &engine).unwrap();
        let expected = engine.query("four", "").unwrap();
        asked.set(0);
        let again = open("lengths");
        assert_eq!(asked.get(), 0);
        assert_eq!(again.settings.threshold, 0.25);
        assert_eq!(again.store(), engine.store());
        assert_eq!(again.query("four", "").unwrap(), expected);
        asked.set(0);
        open("another maker");
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn terms_need_no_file_of_vectors() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = open_engine(dir.path(), Box::new(TermEmbedder::new())).unwrap();
        engine.extend([revision("I should smile")]).unwrap();
        save_engine(dir.path(), &engine).unwrap();
        assert!(!dir.path().join(VECTORS).exists());
        let again = open_engine(dir.path(), Box::new(TermEmbedder::new())).unwrap();
        assert_eq!(again.query("I should smile", "").unwrap().len(), 1);
    }
}
