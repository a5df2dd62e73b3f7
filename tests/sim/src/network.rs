//! What becomes of a message on its way.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    /// Lost, of all messages.
    pub loss: f64,
    /// Delivered twice.
    pub twice: f64,
    /// Late by up to half a second.
    pub late: f64,
    /// One way between regions.
    pub far: Duration,
}

impl Mood {
    /// A third of all networks are good ones.
    pub fn new(rng: &mut StdRng) -> Self {
        let far = Duration::from_millis(rng.random_range(5..110));
        match rng.random_range(0..3) {
            0 => Self { loss: 0.0, twice: 0.0, late: 0.0, far },
            _ => Self {
                loss: rng.random_range(0.0..0.2),
                twice: rng.random_range(0.0..0.2),
                late: rng.random_range(0.0..0.1),
                far,
            },
        }
    }

    /// The same one when it works again: it only takes its time.
    pub fn healed(self) -> Self {
        Self { loss: 0.0, twice: 0.0, late: 0.0, ..self }
    }
}

/// The ways between the nodes.
#[derive(Debug)]
pub struct Network {
    /// How it is now.
    pub mood: Mood,
    cut: BTreeSet<(usize, usize)>,
    regions: Vec<String>,
    seed: u64,
}

impl Network {
    /// Of nodes in these regions.
    pub fn new(mood: Mood, regions: Vec<String>, seed: u64) -> Self {
        Self { mood, cut: BTreeSet::new(), regions, seed }
    }

    /// These ways are cut too.
    pub fn cut(&mut self, ways: &[(usize, usize)]) {
        self.cut.extend(ways.iter().filter(|(from, to)| from != to));
    }

    /// All ways are open.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// Whether all ways are open and no message is lost or late.
    pub fn is_sound(&self) -> bool {
        self.is_whole() && self.mood.loss == 0.0 && self.mood.late == 0.0
    }

    /// Whether all ways are open, though messages may be lost.
    pub fn is_whole(&self) -> bool {
        self.cut.is_empty()
    }

    /// Whether each hears the other, as a connection needs.
    pub fn is_linked(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    /// After how long a message arrives: never, once, or twice.
    ///
    /// That depends on the message and its moment alone, so a run with fewer steps has the same fate for the rest.
    pub fn fates(&self, at: Duration, from: usize, to: usize, bytes: &[u8]) -> Vec<Duration> {
        if self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, at, from, to, bytes).hash(&mut hasher);
        let mut rng = StdRng::seed_from_u64(hasher.finish());
        if rng.random_bool(self.mood.loss) {
            return Vec::new();
        }
        let copies = if rng.random_bool(self.mood.twice) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(from, to, &mut rng)).collect()
    }

    /// There and back.
    pub fn rtt(&self, a: usize, b: usize) -> Duration {
        let near = Duration::from_micros(600);
        if self.regions[a] == self.regions[b] { near } else { self.mood.far * 2 + near }
    }

    fn delay(&self, from: usize, to: usize, rng: &mut StdRng) -> Duration {
        let far = if self.regions[from] == self.regions[to] { Duration::ZERO } else { self.mood.far };
        let near = Duration::from_micros(rng.random_range(50..1500));
        let late = match rng.random_bool(self.mood.late) {
            true => Duration::from_millis(rng.random_range(1..500)),
            false => Duration::ZERO,
        };
        far + near + late
    }
}
