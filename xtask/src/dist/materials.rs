//! The list of materials of a program: every crate that is compiled into it, in CycloneDX 1.5, as JSON.
//!
//! All of it is known to cargo: the graph to `cargo metadata`, as resolved for the machine that builds, and the
//! sums of the packages to the lock file. Crates that only run while others are compiled (procedural macros) are
//! listed with the scope `excluded`; build scripts and tests are left out. C and C++ that a crate brings, RocksDB
//! most of all, is named by that crate's version (`0.17.3+10.4.2`). Nothing in it depends on the day or the machine,
//! so that two builds of one commit have one list.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::workspace::{Workspace, output};

/// Where packages of crates.io are from, in `cargo metadata` and in the lock file.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `cargo metadata` knows, of that what matters here.
#[derive(Deserialize)]
pub(super) struct Graph {
    packages: Vec<Package>,
    resolve: Resolve,
    /// Sums of the packages, by name and version.
    #[serde(skip)]
    sums: BTreeMap<(String, String), String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    license: Option<String>,
    license_file: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` for a normal dependency, otherwise `dev` or `build`.
    kind: Option<String>,
}

impl Graph {
    /// Of the workspace, with the features that it is built with by default, for the machine that builds.
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let version = output(workspace.command("rustc").arg("-vV"))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc -vV names no host")?;
        let mut command = workspace.cargo();
        command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", host]);
        let mut graph: Self =
            serde_json::from_str(&output(&mut command)?).context("cargo metadata is not as expected")?;
        let lock = workspace.root().join("Cargo.lock");
        let lock = std::fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
        graph.sums = sums(&lock);
        Ok(graph)
    }

    /// The list for a program: a package of the workspace whose binary has this SHA-256.
    ///
    /// # Errors
    /// If the workspace has no such package, or the graph is not whole.
    pub(super) fn materials(&self, program: &str, sha256: &str) -> Result<Value> {
        let root = self.packages.iter().find(|package| package.name == program && package.source.is_none());
        let root = root.with_context(|| format!("the workspace has no package {program}"))?;
        let used = self.used_by(&root.id)?;
        let mut components = Vec::new();
        let mut dependencies = Vec::new();
        for (package, uses) in &used {
            let package = self.package(package)?;
            if package.id != root.id {
                components.push(self.component(package));
            }
            let uses = uses.iter().map(|id| Ok(purl(self.package(id)?))).collect::<Result<Vec<_>>>()?;
            dependencies.push(json!({ "ref": purl(package), "dependsOn": uses }));
        }
        let mut program = self.component(root);
        program["type"] = json!("application");
        program["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        Ok(json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "component": program },
            "components": components,
            "dependencies": dependencies,
        }))
    }

    /// Everything that is compiled into a package, itself included, with what each uses directly; ordered by id.
    fn used_by(&self, root: &str) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut open = vec![*nodes.get_key_value(root).context("cargo metadata resolves nothing for it")?.0];
        while let Some(id) = open.pop() {
            if used.contains_key(id) {
                continue;
            }
            let node = nodes.get(id).with_context(|| format!("cargo metadata does not resolve {id}"))?;
            let normal = |one: &&Dependency| one.dep_kinds.iter().any(|kind| kind.kind.is_none());
            let uses: BTreeSet<&str> = node.deps.iter().filter(normal).map(|one| one.pkg.as_str()).collect();
            open.extend(&uses);
            used.insert(id, uses);
        }
        Ok(used)
    }

    fn package(&self, id: &str) -> Result<&Package> {
        let found = self.packages.iter().find(|package| package.id == id);
        found.with_context(|| format!("cargo metadata has no package {id}"))
    }

    fn component(&self, package: &Package) -> Value {
        let macros = package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"));
        let mut component = json!({
            "type": "library",
            "bom-ref": purl(package),
            "name": package.name,
            "version": package.version,
            "scope": if macros { "excluded" } else { "required" },
            "purl": purl(package),
        });
        if let Some(description) = &package.description {
            component["description"] = json!(description.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if let Some(licenses) = licenses(package) {
            component["licenses"] = licenses;
        }
        if let Some(sum) = self.sums.get(&(package.name.clone(), package.version.clone())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        if let Some(repository) = &package.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        component
    }
}

/// The package's URL, which is its identity too.
fn purl(package: &Package) -> String {
    let Package { name, version, source, .. } = package;
    let version = version.replace('+', "%2B");
    match source.as_deref() {
        None | Some(CRATES_IO) => format!("pkg:cargo/{name}@{version}"),
        Some(other) => {
            let other = other.replace(':', "%3A").replace('+', "%2B");
            format!("pkg:cargo/{name}@{version}?repository_url={other}")
        }
    }
}

/// An expression of SPDX, which older packages write with a slash, or that there is a file.
fn licenses(package: &Package) -> Option<Value> {
    match (&package.license, &package.license_file) {
        (Some(license), _) => Some(json!([{ "expression": license.replace('/', " OR ") }])),
        (None, Some(file)) => Some(json!([{ "license": { "name": format!("{file} of the package") } }])),
        (None, None) => None,
    }
}

/// The sums of a lock file, by name and version. Cargo writes it, one key a line.
fn sums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut sums = BTreeMap::new();
    for entry in lock.split("[[package]]").skip(1) {
        let of = |key: &str| {
            let value = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            value.map(|value| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) = (of("name"), of("version"), of("checksum")) {
            sums.insert((name, version), sum);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn graph() -> Graph {
        Graph::read(&Workspace::find().expect("the checkout")).expect("is read")
    }

    /// What the format demands of a component: its type, its name, and the shape of what may be left out.
    fn check_component(component: &Value) {
        let types = ["application", "library"];
        assert!(component["type"].as_str().is_some_and(|kind| types.contains(&kind)), "{component}");
        assert!(component["name"].as_str().is_some_and(|name| !name.is_empty()), "{component}");
        assert!(component["bom-ref"].as_str().is_some_and(|text| !text.is_empty()), "{component}");
        let scopes = ["required", "optional", "excluded"];
        assert!(component["scope"].as_str().is_some_and(|scope| scopes.contains(&scope)), "{component}");
        let purl = component["purl"].as_str().expect("text");
        assert!(purl.starts_with("pkg:cargo/") && purl.contains('@') && !purl.contains('+'), "{purl}");
        for hash in component["hashes"].as_array().into_iter().flatten() {
            assert_eq!(hash["alg"], "SHA-256");
            let content = hash["content"].as_str().expect("text");
            assert!(content.len() == 64 && content.chars().all(|c| c.is_ascii_hexdigit()), "{content}");
        }
        for license in component["licenses"].as_array().into_iter().flatten() {
            let expression = license["expression"].as_str().is_some_and(|text| !text.contains('/'));
            assert!(expression ^ license["license"]["name"].is_string(), "{license}");
        }
        for reference in component["externalReferences"].as_array().into_iter().flatten() {
            assert!(reference["type"] == "vcs" && reference["url"].is_string(), "{reference}");
        }
    }

    #[test]
    fn a_list_has_what_the_format_demands_and_refers_to_nothing_that_it_lacks() {
        let list = graph().materials("consensus-cli", SHA256).expect("is made");
        assert_eq!((&list["bomFormat"], &list["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        assert!(list["version"].as_u64() >= Some(1));
        let program = &list["metadata"]["component"];
        check_component(program);
        assert_eq!((&program["type"], &program["name"]), (&json!("application"), &json!("consensus-cli")));
        assert_eq!(program["hashes"][0]["content"], SHA256);
        let components = list["components"].as_array().expect("a list");
        components.iter().for_each(check_component);
        let reference = |one: &Value| one["bom-ref"].as_str().expect("text").to_owned();
        let all: BTreeSet<String> = components.iter().chain([program]).map(reference).collect();
        assert_eq!(all.len(), components.len() + 1, "a reference is given twice");
        let dependencies = list["dependencies"].as_array().expect("a list");
        assert_eq!(dependencies.len(), all.len());
        for one in dependencies {
            let uses = one["dependsOn"].as_array().expect("a list");
            for reference in uses.iter().chain([&one["ref"]]) {
                assert!(all.contains(reference.as_str().expect("text")), "{reference} is not in the list");
            }
        }
    }

    #[test]
    fn a_list_names_what_is_compiled_in_and_not_what_tests_and_build_scripts_use() {
        let list = graph().materials("consensus-server", SHA256).expect("is made");
        let components = list["components"].as_array().expect("a list");
        let found = |name: &str| components.iter().find(|one| one["name"] == name);
        for name in ["consensus-core", "raft", "rocksdb", "librocksdb-sys", "rustls", "tokio", "tonic"] {
            assert_eq!(found(name).expect(name)["scope"], "required", "{name}");
        }
        assert_eq!(found("serde_derive").expect("a macro")["scope"], "excluded");
        for name in ["cita-peers", "protox", "bindgen", "rcgen", "tempfile", "consensus-server"] {
            assert!(found(name).is_none(), "{name}");
        }
        let rocksdb = found("librocksdb-sys").expect("is there")["version"].as_str().expect("text");
        assert!(rocksdb.contains('+'), "{rocksdb} names no version of RocksDB");
        let from_registry = components.iter().filter(|one| one["hashes"].is_array()).count();
        assert!(from_registry > 100, "{from_registry} have a sum");
    }

    #[test]
    fn a_program_that_is_not_of_the_workspace_has_no_list() {
        let error = graph().materials("tokio", SHA256).expect_err("is refused");
        assert_eq!(error.to_string(), "the workspace has no package tokio");
    }
}
