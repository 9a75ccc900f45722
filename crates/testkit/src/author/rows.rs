//! Statements about rows. What they make follows from the rows that are there:
//! nothing is drawn from a sequence or a clock that another statement reads.

use super::{Author, Definitions};

impl Author {
    /// A statement that changes rows; none where there is no table.
    pub fn rows(&mut self, there: &Definitions) -> Option<String> {
        let (t, _) = self.pick(&there.tables)?.clone();
        let (u, _) = self.pick(&there.tables)?.clone();
        let n = self.below(60);
        let insert = format!("INSERT INTO {t} (c0, c1)");
        Some(match self.below(20) {
            0..=4 => format!("{insert} OVERRIDING SYSTEM VALUE VALUES ({}, {n}), ({}, NULL)", n + 1, n + 100),
            5 | 6 => format!(
                "INSERT INTO {t} (c0, c1, c2) OVERRIDING SYSTEM VALUE VALUES ({}, {n}, {})",
                n + 200,
                self.one_of(&["'it''s'", "NULL", "E'a\\\\b'", "'x;y'", "'Grüße'"])
            ),
            7 => format!("{insert} OVERRIDING SYSTEM VALUE VALUES ({}, 3) ON CONFLICT DO NOTHING", n + 1),
            8 => format!(
                "{insert} OVERRIDING SYSTEM VALUE VALUES ({}, 4) ON CONFLICT (c0) DO UPDATE SET c1 = excluded.c1 + 1",
                n + 1
            ),
            9 => format!(
                "{insert} OVERRIDING SYSTEM VALUE SELECT c0 + 1000, c1 FROM {u} WHERE c0 < 1000 ON CONFLICT DO NOTHING"
            ),
            10 => {
                format!("{insert} OVERRIDING SYSTEM VALUE SELECT g, g % 7 FROM generate_series(300, 304) g")
            }
            11 => format!("UPDATE {t} SET c1 = coalesce(c1, 0) + 1 WHERE c1 > {n}"),
            12 => format!("UPDATE {t} SET c2 = c2 || '?' WHERE c2 IS NOT NULL"),
            13 => format!("UPDATE {t} SET c1 = {u}.c1 FROM {u} WHERE {u}.c0 = {t}.c0 AND {t}.c1 IS NULL"),
            14 => format!("DELETE FROM {t} WHERE c1 = {n}"),
            15 => format!("DELETE FROM {t} USING {u} WHERE {t}.c0 = {u}.c0 + 7"),
            16 => format!("TRUNCATE {t}"),
            17 => format!(
                "WITH gone AS (DELETE FROM {t} WHERE c1 = {n} RETURNING c0) UPDATE {u} SET c1 = 0 FROM gone WHERE gone.c0 = {u}.c0"
            ),
            18 => format!(
                "MERGE INTO {t} USING (SELECT {n} AS k) s ON {t}.c0 = s.k WHEN MATCHED THEN UPDATE SET c1 = 8 \
                 WHEN NOT MATCHED THEN INSERT (c0, c1) OVERRIDING SYSTEM VALUE VALUES (s.k, 9)"
            ),
            _ => format!("INSERT INTO {} (c0, c1) VALUES ({}, 2)", self.pick(&there.views)?.clone(), n + 400),
        })
    }
}
