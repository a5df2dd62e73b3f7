//! `[region.NAME]`

use gossip::id::RegionName;
use ipnet::IpNet;

use super::Section;
use crate::config::model::Region;
use crate::config::read;
use crate::config::walk::{At, Value};

/// A region and the places of what other sections may contradict.
pub(super) struct Draft {
    pub(super) region: Region,
    pub(super) prefixes: Vec<At<IpNet>>,
}

pub(super) fn read(name: RegionName, value: &Value<'_>) -> Option<Draft> {
    let mut table = value.table()?;
    let latitude = table.keyed("latitude");
    let longitude = table.keyed("longitude");
    if let (Some((span, _)), None) | (None, Some((span, _))) = (&latitude, &longitude) {
        let message = "`latitude` and `longitude` must be given together";
        table.sink().absent(span.clone(), message, None);
    }
    let north = latitude.and_then(|(_, value)| value.number(-90.0..=90.0));
    let east = longitude.and_then(|(_, value)| value.number(-180.0..=180.0));
    let prefixes = table.optional("prefixes", read::list(read::located(read::network))).unwrap_or_default();
    table.finish();
    let region = Region {
        name,
        location: north.zip(east),
        prefixes: prefixes.iter().map(|prefix| prefix.value).collect(),
    };
    Some(Draft { region, prefixes })
}

/// A prefix may belong to one region only; a longer one inside another region's is fine.
pub(super) fn check_prefixes(regions: &[Section<'_, RegionName, Draft>], sink: &super::Diagnostics) {
    let mut owners = std::collections::BTreeMap::new();
    for section in regions {
        for prefix in section.body.iter().flat_map(|draft| &draft.prefixes) {
            let owner = *owners.entry(prefix.value).or_insert(section.key.value);
            if owner != section.key.value {
                let message = format!("`{}` already belongs to region `{owner}`", prefix.value);
                sink.error(prefix.span.clone(), message, None);
            }
        }
    }
}
