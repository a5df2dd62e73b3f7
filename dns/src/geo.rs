//! Where an address is: a MaxMind database, and distances on the globe. The only file that names maxminddb.

mod map;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{Reader, WithinOptions};
use serde::{Deserialize, Serialize};

use self::map::Bytes;

/// The mean radius of the Earth, in kilometres.
const EARTH_KM: f64 = 6371.0;
/// The longest name of a kind of database that is told.
const MAX_KIND_CHARS: usize = 100;
/// How many records are looked at for coordinates before a database is held to have none.
const SAMPLE: usize = 10_000;

/// Degrees north and east.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Location {
    /// −90 to 90.
    pub latitude: f64,
    /// −180 to 180.
    pub longitude: f64,
}

impl Location {
    /// The great-circle distance in kilometres (haversine), exact enough to order regions.
    pub fn distance_km(&self, other: &Self) -> f64 {
        let [north, other_north] = [self.latitude.to_radians(), other.latitude.to_radians()];
        let half_north = (other_north - north) / 2.0;
        let half_east = (other.longitude - self.longitude).to_radians() / 2.0;
        let chord = half_north.sin().powi(2) + north.cos() * other_north.cos() * half_east.sin().powi(2);
        2.0 * EARTH_KM * chord.sqrt().min(1.0).asin()
    }

    /// `None` when the numbers are on no globe.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let valid = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        valid.then_some(Self { latitude, longitude })
    }
}

/// A place on the globe as a point in space, the globe's radius being 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point([f64; 3]);

impl Location {
    /// The same place in space.
    // Inlined, its sines are computed for every query before it is known whether a place is needed, of whatever bytes stand where
    // there is none: more than half of a decision's time.
    #[inline(never)]
    pub(crate) fn point(&self) -> Point {
        let (north, north_cosine) = self.latitude.to_radians().sin_cos();
        let (east, east_cosine) = self.longitude.to_radians().sin_cos();
        Point([north_cosine * east_cosine, north_cosine * east, north])
    }
}

impl Point {
    /// The square of the straight distance, 0 to 4. It orders places as the great circle does.
    pub(crate) fn chord_squared(&self, other: &Self) -> f64 {
        self.0.iter().zip(other.0).map(|(here, there)| (here - there) * (here - there)).sum()
    }
}

/// The part of a database's record that is read; the rest is skipped.
#[derive(Deserialize)]
struct Entry {
    location: Option<Coordinates>,
}

#[derive(Deserialize)]
struct Coordinates {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

/// What a database knows of an address.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Located {
    /// Where it is, if known.
    pub location: Option<Location>,
    /// The prefix length for which this holds, of the address's own family.
    pub prefix_len: u8,
}

/// An open GeoIP database, as its file was when it was opened: what becomes of the file later does not matter to it.
#[derive(Debug)]
pub struct GeoIp {
    reader: Reader<Bytes>,
    mapped: bool,
    kind: String,
}

/// Why a GeoIP file is of no use. The server runs on without it.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file cannot be read.
    #[error("cannot read the GeoIP file {path}: {error}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is no MaxMind database, or a damaged one.
    #[error("the GeoIP file {path} is damaged or no MaxMind database: {reason}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The database tells no coordinates, such as a country database.
    #[error("the GeoIP file {path} ({kind}) has no coordinates; a city database has", path = path.display())]
    NoLocations {
        /// Which.
        path: PathBuf,
        /// The type it says it is.
        kind: String,
    },
}

impl GeoIp {
    /// Maps a copy of a database, made in the folder `scratch`, and checks that it tells locations.
    ///
    /// # Errors
    /// See [`GeoError`].
    pub fn load(path: &Path, scratch: &Path) -> Result<Self, GeoError> {
        let bytes = Bytes::of(path, scratch)
            .map_err(|error| GeoError::Unreadable { path: path.to_owned(), error })?;
        let mapped = bytes.is_mapped();
        let damaged = |reason: String| GeoError::Damaged { path: path.to_owned(), reason };
        let reader = Reader::from_source(bytes).map_err(|error| damaged(error.to_string()))?;
        let mut has_locations = false;
        let networks =
            reader.networks(WithinOptions::default()).map_err(|error| damaged(error.to_string()))?;
        for network in networks.take(SAMPLE) {
            let entry = network
                .and_then(|network| network.decode::<Entry>())
                .map_err(|error| damaged(error.to_string()))?;
            if entry.is_some_and(|entry| location_of(&entry).is_some()) {
                has_locations = true;
                break;
            }
        }
        // It is shown on terminals: what plays with them is left out.
        let kind = &reader.metadata().database_type;
        let kind: String = kind.chars().filter(|char| !char.is_control()).take(MAX_KIND_CHARS).collect();
        if !has_locations {
            return Err(GeoError::NoLocations { path: path.to_owned(), kind });
        }
        Ok(Self { reader, mapped, kind })
    }

    /// What it says it is, such as `GeoLite2-City`: printable, at most 100 characters.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// True when it lies on disk, false when it was read into memory for want of room there.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// When it says it was built, in seconds from 1970.
    pub fn built(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// Looks up an address. A record that cannot be read is one without a location.
    // Inlined, it would stand between what every query runs through.
    #[inline(never)]
    pub fn locate(&self, address: IpAddr) -> Located {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let unknown = Located { location: None, prefix_len: width };
        let Ok(found) = self.reader.lookup(address) else {
            // An IPv4 database knows nothing of any IPv6 address.
            return Located { prefix_len: 0, ..unknown };
        };
        let prefix_len = match found.network() {
            Ok(network) if network.ip().is_ipv4() == address.is_ipv4() => network.prefix(),
            // A record above the place of IPv4 in an IPv6 tree holds for all of IPv4.
            Ok(_) => 0,
            Err(_) => return unknown,
        };
        match found.decode::<Entry>() {
            Ok(entry) => Located { location: entry.as_ref().and_then(location_of), prefix_len },
            Err(_) => unknown,
        }
    }
}

fn location_of(entry: &Entry) -> Option<Location> {
    let coordinates = entry.location.as_ref()?;
    Location::new(coordinates.latitude?, coordinates.longitude?)
}
