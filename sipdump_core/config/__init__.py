"""Reading Kamailio's configuration files."""
