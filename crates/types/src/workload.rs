//! What kind of object a workload belongs to.

/// Kind of the object that owns a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of Kubernetes kinds")]
pub enum WorkloadType {
    /// Also of a workload that doesn't say.
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl WorkloadType {
    /// Lower case, as baggage and `config_dump` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }

    /// The type that a lower-case name names.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Deployment, Self::CronJob, Self::Pod, Self::Job]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_names_its_type() {
        for kind in [
            WorkloadType::Deployment,
            WorkloadType::CronJob,
            WorkloadType::Pod,
            WorkloadType::Job,
        ] {
            assert_eq!(WorkloadType::from_name(kind.as_str()), Some(kind));
        }
        assert_eq!(WorkloadType::from_name("replicaset"), None);
        assert_eq!(WorkloadType::default(), WorkloadType::Deployment);
    }
}
