//! YAML as JSON values, which are easier to walk.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// The directory `deploy`, or a file in it.
pub(crate) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// A file in `deploy` as text.
pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// All documents of a file in `deploy`.
pub(crate) fn documents(name: &str) -> Vec<Value> {
    let documents = YamlLoader::load_from_str(&text(name));
    let documents = documents.unwrap_or_else(|error| panic!("deploy/{name}: {error}"));
    documents.iter().map(value).collect()
}

/// The one document of a file in `deploy`.
pub(crate) fn document(name: &str) -> Value {
    let mut all = documents(name);
    assert_eq!(all.len(), 1, "deploy/{name}");
    all.remove(0)
}

fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Real(text) | Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Boolean(yes) => Value::from(*yes),
        Yaml::Array(items) => items.iter().map(value).collect(),
        Yaml::Hash(map) => {
            let mut object = Map::new();
            for (key, item) in map {
                let key = key.as_str().expect("keys are text");
                match (key, value(item)) {
                    // A merge: what is there already goes first.
                    ("<<", Value::Object(merged)) => {
                        for (key, item) in merged {
                            object.entry(key).or_insert(item);
                        }
                    }
                    (key, item) => {
                        object.insert(key.to_owned(), item);
                    }
                }
            }
            Value::Object(object)
        }
        Yaml::Null | Yaml::BadValue | Yaml::Alias(_) => Value::Null,
    }
}

/// The words of an array of text.
pub(crate) fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
