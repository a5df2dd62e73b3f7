//! How far regions lie from each other, by the coordinates in `services.toml`.

use gossip::id::RegionName;

use crate::config::model::Region;

/// The mean radius of the Earth, in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0;

/// The great circle between two places given as degrees north and east, in whole kilometres (haversine formula).
///
/// Whole, so that nodes with different mathematical libraries come to the same order of regions.
pub fn great_circle_km(from: (f64, f64), to: (f64, f64)) -> u32 {
    let (from_north, to_north) = (from.0.to_radians(), to.0.to_radians());
    let half_north = (to_north - from_north) / 2.0;
    let half_east = (to.1 - from.1).to_radians() / 2.0;
    let h = half_north.sin().powi(2) + from_north.cos() * to_north.cos() * half_east.sin().powi(2);
    (2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()).round() as u32
}

/// The distance between two regions; `None` when one of them has no coordinates.
pub fn between(regions: &[Region], from: &RegionName, to: &RegionName) -> Option<u32> {
    let place = |name: &RegionName| regions.iter().find(|region| region.name == *name)?.location;
    Some(great_circle_km(place(from)?, place(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        let (frankfurt, virginia, singapore) = ((50.11, 8.68), (38.95, -77.45), (1.35, 103.82));
        assert_eq!(great_circle_km(frankfurt, frankfurt), 0);
        assert!((6500..6650).contains(&great_circle_km(frankfurt, virginia)));
        assert!((10_200..10_350).contains(&great_circle_km(frankfurt, singapore)));
        assert_eq!(great_circle_km((0.0, 179.0), (0.0, -179.0)), 222, "over the date line");
        assert_eq!(great_circle_km((90.0, 0.0), (-90.0, 17.0)), 20_015, "from pole to pole");
    }
}
