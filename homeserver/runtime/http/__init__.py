"""HTTP: endpoints declared on methods, a router, typed requests, and the site that serves them over twisted.web."""
