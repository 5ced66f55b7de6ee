//! Mistakes in configuration files that let a node start and not take part.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Ledger;
use crate::e2e::alerts::act::Act;
use crate::e2e::alerts::load::Pace;

/// A member that only one node knows of.
const STRANGER: &str = "\n[[peers]]\nid = 5\npeer = \"127.0.0.1:9\"\nclient = \"127.0.0.1:8\"\n";

/// Larger than a node with [`NARROW`] takes, and as large as the others take.
const LARGE: Pace = Pace { per_second: 20, bytes: 50_000 };

/// What one node has in place of the others' bounds.
const NARROW: [(&str, &str); 4] = [
    ("preferred_bytes = 65536", "preferred_bytes = 8192"),
    ("absolute_bytes = 65536", "absolute_bytes = 16384"),
    ("entry_bytes_max = 131072", "entry_bytes_max = 32768"),
    ("append_bytes_max = 65536", "append_bytes_max = 32768"),
];

/// A node that was made with another list of members: a chain of its own, to which nobody belongs.
pub(crate) fn misfit(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    // Its store is as new as its mistake.
    troupe.cluster.stop(2)?;
    let data = troupe.cluster.node(2)?.data();
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside).with_context(|| data.display().to_string())?;
    act.begins();
    let before = troupe.reconfigure(2, |text| format!("{text}{STRANGER}"))?;
    act.fired()?;
    troupe.cluster.stop(2)?;
    std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    std::fs::rename(&aside, &data).with_context(|| data.display().to_string())?;
    troupe.reconfigure(2, |_| before)?;
    act.ends();
    Ok(())
}

/// A node whose bounds are narrower than those of the others refuses what they have agreed on.
pub(crate) fn limits_differ(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let before = troupe.reconfigure(2, |text| {
        NARROW.iter().fold(text.to_owned(), |text, (wide, narrow)| text.replace(wide, narrow))
    })?;
    troupe.lead(1)?;
    let load = troupe.load(1, LARGE)?;
    act.begins();
    act.fired()?;
    drop(load);
    troupe.reconfigure(2, |_| before)?;
    act.ends();
    troupe.pause(Duration::from_secs(1))
}
