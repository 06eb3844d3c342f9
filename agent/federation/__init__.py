"""Many sites, one fleet: what a site tells over NATS JetStream, and what is made of it elsewhere."""
