"""What people look at: pictures of builds, and pages about them."""
